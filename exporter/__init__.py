"""The exporter: a host and a dispatch database in, gauges out."""
