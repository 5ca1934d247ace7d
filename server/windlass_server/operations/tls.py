"""TLS for the listening socket, with certificates of clients where they are asked for.

OpenSSL's defaults for a server, from TLS 1.2 on: https://docs.python.org/3/library/ssl.html
"""

from __future__ import annotations

import argparse
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Files in PEM format. `certfile` may hold the key and intermediate certificates too.

    `cert_reqs` says whether clients need a certificate that `ca_certs` signed: 0 no, 1 it is
    checked where there is one, 2 yes.
    """

    certfile: str
    keyfile: str | None = None
    keyfile_password_file: str | None = None
    ca_certs: str | None = None
    cert_reqs: int = 0

    def __post_init__(self) -> None:
        if self.cert_reqs and not self.ca_certs:
            raise ConfigError(
                f"--ssl-cert-reqs {self.cert_reqs} needs --ssl-ca-certs: who signs for clients?"
            )
        if self.ca_certs and not self.cert_reqs:
            # Without this the server would be open to all, against what was wished.
            raise ConfigError(
                "--ssl-ca-certs checks nobody without --ssl-cert-reqs: 2 lets in only clients with "
                "a certificate, 1 those without one too"
            )


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of TLS, which have vLLM's names."""
    group = parser.add_argument_group("TLS")
    group.add_argument("--ssl-certfile", metavar="FILE", help="serve https with this certificate")
    group.add_argument("--ssl-keyfile", metavar="FILE", help="its key (default: in --ssl-certfile)")
    group.add_argument(
        "--ssl-keyfile-password-file", metavar="FILE", help="the password of an encrypted key"
    )
    group.add_argument(
        "--ssl-ca-certs", metavar="FILE", help="authorities that sign the certificates of clients"
    )
    group.add_argument(
        "--ssl-cert-reqs",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="clients need no certificate (0), may show one (1), need one (2)",
    )


def tls_from_arguments(args: argparse.Namespace) -> TlsSettings | None:
    """Return the settings, None without TLS; the files have been read once.

    Raises:
        ConfigError: a file is missing or wrong, or flags do not fit together.
    """
    if args.ssl_certfile is None:
        names = ("keyfile", "keyfile_password_file", "ca_certs", "cert_reqs")
        if given := next((name for name in names if getattr(args, f"ssl_{name}")), None):
            raise ConfigError(f"--ssl-{given.replace('_', '-')} needs --ssl-certfile")
        return None
    settings = TlsSettings(
        certfile=args.ssl_certfile,
        keyfile=args.ssl_keyfile,
        keyfile_password_file=args.ssl_keyfile_password_file,
        ca_certs=args.ssl_ca_certs,
        cert_reqs=args.ssl_cert_reqs,
    )
    Tls(settings)
    return settings


class Tls:
    """The context of one server; `reload` gives new connections a new certificate.

    Raises:
        ConfigError: a file is missing or wrong.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self.context = _context(settings)

    def warn_of_dates(self) -> None:
        """Log a warning where the certificate is not valid today: clients will refuse it."""
        problem = _wrong_date(self._settings.certfile)
        if problem:
            logger.warning("%s: clients will refuse it", problem)

    def reload(self) -> None:
        """Read certificate and key again; what is wrong is logged, and changes nothing."""
        try:
            _context(self._settings)  # a context that fails to load is left without a key
        except ConfigError as exc:
            logger.error("The certificate stays as it was: %s", exc)
            return
        _load(self.context, self._settings)
        logger.info("The certificate was read again")
        self.warn_of_dates()


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    context.verify_mode = ssl.VerifyMode(settings.cert_reqs)
    if settings.ca_certs:
        _readable("--ssl-ca-certs", settings.ca_certs)
        try:
            context.load_verify_locations(settings.ca_certs)
        except ssl.SSLError as exc:
            message = f"--ssl-ca-certs {settings.ca_certs} holds no certificate in PEM format"
            raise ConfigError(message) from exc
    return context


def _load(context: ssl.SSLContext, settings: TlsSettings) -> None:
    _readable("--ssl-certfile", settings.certfile)
    if settings.keyfile:
        _readable("--ssl-keyfile", settings.keyfile)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(settings.certfile, settings.keyfile, _password(settings))
    except ssl.SSLError as exc:
        raise ConfigError(_explained(settings, exc)) from exc


def _explained(settings: TlsSettings, error: ssl.SSLError) -> str:
    files = settings.certfile + (f" with {settings.keyfile}" if settings.keyfile else "")
    if error.reason == "KEY_VALUES_MISMATCH":
        reason = "the key does not belong to the certificate"
    elif _certificate(settings.certfile) is None:
        reason = "it is no certificate in PEM format"
    elif not _is_encrypted(settings):
        reason = f"there is no usable key in PEM format{f' ({error.reason})' * bool(error.reason)}"
    elif settings.keyfile_password_file is None:
        reason = "the key is encrypted: give --ssl-keyfile-password-file"
    else:
        reason = "the password does not open the key"
    return f"--ssl-certfile {files} cannot be used: {reason}"


def _is_encrypted(settings: TlsSettings) -> bool:
    return "ENCRYPTED" in Path(settings.keyfile or settings.certfile).read_text(errors="replace")


def _password(settings: TlsSettings) -> str:
    path = settings.keyfile_password_file
    if path is None:
        return ""
    return _readable("--ssl-keyfile-password-file", path).decode(errors="replace").rstrip("\r\n")


def _readable(flag: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{flag} {path} cannot be read: {exc.strerror or exc}") from exc


def _certificate(path: str) -> dict[str, Any] | None:
    """Return the first certificate of a file as `ssl` shows it, None where it cannot."""
    # The only decoder in the standard library; `SSLSocket.getpeercert` uses it too.
    decode = getattr(ssl._ssl, "_test_decode_cert", None)  # type: ignore[attr-defined]
    try:
        found: dict[str, Any] | None = None if decode is None else decode(path)
    except (ssl.SSLError, OSError):
        return None
    return found


def _wrong_date(path: str) -> str:
    certificate = _certificate(path)
    if certificate is None:
        return ""
    now = time.time()
    if now > ssl.cert_time_to_seconds(certificate["notAfter"]):
        return f"The certificate {path} expired on {certificate['notAfter']}"
    if now < ssl.cert_time_to_seconds(certificate["notBefore"]):
        return f"The certificate {path} is not valid before {certificate['notBefore']}"
    return ""
