"""The connection to InfluxDB: the official client, and plain requests for what it has no public call for."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

import urllib3
from influxdb_client import InfluxDBClient
from influxdb_client.rest import ApiException


class Server:
    """`client` manages buckets, tokens and deletion; `request` writes compressed lines, runs InfluxQL and asks for the
    names of 1.x. Both connect at the first request and keep their connections; neither retries.

    compresses: whether a network lies between; on one machine, packing and unpacking only takes CPU time.
    rows_at_once: the rows of an answer that are kept as text before they become columns.
    """

    def __init__(
        self,
        url: str,
        token: str,
        organization: str,
        connect_timeout_seconds: float,
        timeout_seconds: float,
        ca_file: str | None,
    ) -> None:
        self.url, self.token, self.organization = url, token, organization
        self.rows_at_once = 100_000
        self.compresses = not _is_loopback(urlsplit(url).hostname or "")
        milliseconds = (connect_timeout_seconds * 1000, timeout_seconds * 1000)
        self.client = InfluxDBClient(url, token, timeout=milliseconds, org=organization, ssl_ca_cert=ca_file)
        self._pool = urllib3.PoolManager(
            maxsize=8,  # three kinds of rows are written at once, by CONNECTIONS each
            timeout=urllib3.Timeout(connect=connect_timeout_seconds, read=timeout_seconds),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=ca_file,
        )

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """The answer; its body is not read yet if `stream`, and then the caller must close it.

        Raises ApiException for any status but 2xx, as the client does.
        """
        response = self._pool.request(
            method,
            f"{self.url.rstrip('/')}{path}?{urlencode(query or {})}",
            body=body,
            headers={"Authorization": f"Token {self.token}", "Accept": "application/json", **(headers or {})},
            preload_content=not stream,
        )
        if not 200 <= response.status < 300:
            error = ApiException(response.status, response.reason)
            error.body, error.headers = response.data, response.headers
            raise error
        return response

    def close(self) -> None:
        self._pool.clear()
        self.client.close()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
