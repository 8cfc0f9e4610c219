"""The control API from Python."""

from types import TracebackType
from typing import Any, Self

import requests

TIMEOUT_SECONDS = 10


class Client:
    """A sandbox that listens at `url`. Raises requests.HTTPError with the sandbox's own words."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and loopback

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    @property
    def slack_webhook_url(self) -> str:
        """A webhook; any other three names after `/services/` are a hook of their own."""
        return f"{self.url}/services/T0/B0/sandbox"

    @property
    def aligo_base_url(self) -> str:
        """For ALIGO_BASE_URL."""
        return f"{self.url}/aligo"

    def messages(self, channel: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """What arrived, oldest first."""
        found: list[dict[str, Any]] = self._ask("GET", "messages", channel=channel, after=after)["messages"]
        return found

    def calls(self, channel: str | None = None) -> list[dict[str, Any]]:
        """Every attempt and its answer, oldest first."""
        found: list[dict[str, Any]] = self._ask("GET", "calls", channel=channel)["calls"]
        return found

    def misbehave(self, **behaviour: Any) -> dict[str, Any]:
        """Put a behaviour in force; its fields are the package's."""
        found: dict[str, Any] = self._ask("POST", "behaviour", json=behaviour)
        return found

    def behaviours(self) -> list[dict[str, Any]]:
        """Those in force, with what is left of each."""
        found: list[dict[str, Any]] = self._ask("GET", "behaviour")["behaviours"]
        return found

    def behave(self, channel: str | None = None) -> None:
        """Clear the behaviours."""
        self._ask("DELETE", "behaviour", channel=channel)

    def clear(self) -> None:
        """Forget messages and calls."""
        self._ask("DELETE", "messages")

    def set_balance(self, sms: int) -> None:
        """Give Aligo's account money for so many short messages."""
        self._ask("PUT", "balance", json={"sms": sms})

    def raw(self, message_id: int) -> bytes:
        """A mail byte for byte."""
        return self._request("GET", f"messages/{message_id}/raw").content

    def _ask(self, method: str, path: str, json: object = None, **query: Any) -> Any:
        response = self._request(method, path, json, **query)
        return response.json() if response.content else None

    def _request(self, method: str, path: str, json: object = None, **query: Any) -> requests.Response:
        response = self._session.request(
            method, f"{self.url}/sandbox/{path}", params=query, json=json, timeout=TIMEOUT_SECONDS
        )
        if not response.ok:
            raise requests.HTTPError(f"{response.status_code} {response.text}", response=response)
        return response
