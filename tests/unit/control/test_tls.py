"""The certificate of the listener: whose names it has, and that it is made anew before it ends."""

from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from pktmirror.control.authority import SERVER_S, Authority
from pktmirror.control.tls import ServerCertificate
from pktmirror.model.join import PLANE_NAME

NOW_S = 1_800_000_000.0
AUTHORITY = Authority.made(NOW_S)


class Files:
    """What was written, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.written: list[bytes] = []
        self._directory = directory

    def __call__(self, pem: bytes) -> Path:
        self.written.append(pem)
        path = self._directory / f"{len(self.written)}.pem"
        path.write_bytes(pem)
        return path

    @property
    def newest(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.written[-1])


def test_the_listeners_certificate_is_made_anew_in_the_last_third_of_its_life(tmp_path: Path) -> None:
    files = Files(tmp_path)
    certificate = ServerCertificate(AUTHORITY, (), files, NOW_S)
    certificate.renew_if_due(NOW_S + SERVER_S * 0.6)
    assert len(files.written) == 1
    certificate.renew_if_due(NOW_S + SERVER_S * 0.7)
    assert len(files.written) == 2
    assert files.newest.not_valid_after_utc.timestamp() == NOW_S + SERVER_S * 1.7
    certificate.renew_if_due(NOW_S + SERVER_S * 0.8)
    assert len(files.written) == 2


def test_it_has_the_name_that_hosts_ask_for_and_each_that_clients_use_once(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ServerCertificate(AUTHORITY, ("localhost", "10.0.0.1", "control.example", "localhost"), files, NOW_S)
    names = files.newest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [PLANE_NAME, "localhost", "control.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.0.0.1")]
