"""How both processes are served: settings, flags, address, TLS, authentication, logs. No business of either."""
