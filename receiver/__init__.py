"""Takes Alertmanager's notifications and delivers them by email, Slack and SMS, whatever happens in between."""
