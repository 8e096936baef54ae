"""HTTP to the local ClickHouse as curl and Grafana speak it."""

from __future__ import annotations

import http.client
import socket
from base64 import b64encode
from urllib.parse import quote, urlencode, urlsplit


class Raw:
    """HTTP as curl and Grafana speak it."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.address = urlsplit(settings["CLICKHOUSE_URL"])
        self.user, self.password = settings["CLICKHOUSE_USER"], settings["CLICKHOUSE_PASSWORD"]
        self.database: str | None = settings["CLICKHOUSE_DATABASE"]

    def __call__(
        self,
        method: str = "GET",
        body: bytes = b"",
        path: str = "/",
        headers: dict[str, str] | None = None,
        **params: str,
    ) -> tuple[int, dict[str, str], bytes]:
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"} if headers is None else headers
        params = {"database": self.database, **params} if self.database else params
        connection = http.client.HTTPConnection(self.address.netloc, timeout=20)
        try:
            connection.request(method, f"{path}?{urlencode(params)}", body or None, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def socket(self, sql: str) -> socket.socket:
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = f"GET /?query={quote(sql)} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n"
        connection = socket.create_connection((self.address.hostname or "", self.address.port or 0))
        connection.sendall(request.encode())
        return connection
