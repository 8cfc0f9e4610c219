"""Grafana's dashboards as code; `python -m grafana.build` writes their JSON."""

import warnings

with warnings.catch_warnings():
    # On import the SDK tells users of the classic schema that there is a newer one. Grafana 10 to 13 read the classic.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    from grafana_foundation_sdk.builders import dashboard, stat  # noqa: F401 - for their warnings, which come but once
