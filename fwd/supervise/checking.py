"""What a controller's words come to, found out by a child without rights that lives no longer than that.

    what is kept, what link has handed over ──a child──▶ one line of JSON, and the document ──▶ the supervisor

The child checks signature, order, shrinking (link/kept.py) and what the local file gives away (link/admit.py); of
certificates, that they are for the keys and names of before and come of a CA that is believed already. So root reads
nothing that link wrote, and link cannot bring in a key of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.link import routed
from fwd.link.admit import admit, understood
from fwd.link.directory import CA, CRL, IKE, LINK, Directory
from fwd.link.document import BYTES_MAX, NUMBER_MAX, Answer, Document, DocumentError
from fwd.link.kept import FILES as KEPT
from fwd.link.kept import Known, Octets, Order
from fwd.model.config import Config, Peering
from fwd.model.linked import NOTHING, REKEYS_MAX, Validity
from fwd.model.router import PROBE_KEY, RouterConfig, Wish
from fwd.model.words import NAME
from fwd.proto import probe
from fwd.proto.errors import UserError
from fwd.supervise import privileges, sandbox
from fwd.supervise.asked import Asked, say
from fwd.supervise.reading import REASON_CHARACTERS_MAX, is_too_much
from fwd.supervise.users import User

What = Literal["start", "document", "accept", "certificates"]
_SAID_BYTES_MAX: Final = (3 << 20) + BYTES_MAX
_CHILD_OCTETS: Final = 1 << 30
_PEM_BYTES_MAX: Final = 1 << 18  # of a bundle of CAs, a certificate, or CRLs
REFUSED, NONE = "refused", "none"
_WRITTEN: Final = frozenset({CA, CRL, PROBE_KEY, f"{LINK}.pem", f"{IKE}.pem"})  # files that it may have put there


@dataclass(frozen=True)
class Case:
    """What a child is to know. Root has read it, as octets."""

    local: Config | RouterConfig
    directory: Directory
    host: str
    key: Ed25519PublicKey
    kept: Octets
    files: Mapping[str, bytes]  # ca.pem, link.pem, of a gateway ike.pem
    applied: Order = NOTHING  # what is in force


@dataclass(frozen=True)
class Found:
    """What the child says. `router`: what is wanted of one, as peerings are of a gateway. `files`: to be put into the
    directory; `document`: to be kept."""

    answer: str
    order: Order = NOTHING
    why: str = ""
    peerings: tuple[Peering, ...] = ()
    draining: bool = False
    rekeys: Mapping[str, int] = field(default_factory=dict)  # by peering a number: with another one it has new keys
    router: Wish | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    lives: Mapping[str, Validity] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    held: Order | None = None
    document: bytes = b""


class Checking(Asked):
    """A child that answers one question, as `user`. `handed`: maps what link has written, in the child itself."""

    def __init__(self, case: Case, what: What, handed: Callable[[], bytes], user: User, now: float) -> None:
        self.what = what
        super().__init__(lambda far, parent: _child(case, what, handed, user, parent, far), _SAID_BYTES_MAX, now)

    def found(self, now: float) -> Found | None:
        """Return what it says once that is here; None: not yet. Raises UserError."""
        said = self.said(now)
        return None if said is None else found_in(said)


def found_in(said: bytes) -> Found:
    """Read what a child has said. Raises UserError if it is nothing."""
    line, _, document = said.partition(b"\n")
    try:
        if is_too_much(line) or len(document) > BYTES_MAX:
            raise ValueError("more than any answer")
        words = json.loads(line)
        held = words["held"]

        # Root writes what it names: whoever has taken it over is to name nothing else.
        if not set(words["files"]) <= _WRITTEN or not set(words["lives"]) <= {LINK, IKE}:
            raise ValueError("of a file that it has no business with")
        if not set(words["damaged"]) <= {*KEPT, *_WRITTEN}:
            raise ValueError("of a file that nobody has kept")

        # Each value is taken in its own form, or is none.
        return Found(
            str(words["answer"]),
            _order_in(words["order"]),
            _shown(words["why"]),
            tuple(Peering.model_validate(one) for one in words["peerings"]),
            words["draining"] is True,
            _rekeys_in(words["rekeys"]),
            None if words.get("router") is None else Wish.model_validate(words["router"]),
            {str(name): str(text).encode() for name, text in words["files"].items()},
            {str(name): Validity(int(one["begins"]), int(one["ends"])) for name, one in words["lives"].items()},
            {str(name): _shown(why) for name, why in words["damaged"].items()},
            None if held is None else _order_in(held),
            document,
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise UserError("it could not be examined: the process that does it has ended without a word") from None


def _order_in(words: Any) -> Order:
    """Raises ValueError for one that no document has, after which none would ever be newer."""
    term, generation = words
    if not all(type(one) is int and 0 <= one <= NUMBER_MAX for one in (term, generation)):
        raise ValueError("no term and generation")
    return term, generation


def _rekeys_in(value: Any) -> dict[str, int]:
    """Raises ValueError for what does not count each peering's rekeyings."""
    if not isinstance(value, dict) or not all(
        re.fullmatch(NAME, name) and type(one) is int and 0 <= one <= REKEYS_MAX for name, one in value.items()
    ):
        raise ValueError("no numbers of peerings")
    return value


def _shown(text: object) -> str:
    return "".join(one if one.isprintable() else " " for one in str(text)[:REASON_CHARACTERS_MAX])


# -- the child ------------------------------------------------------------------------------------------------------


def _child(case: Case, what: What, handed: Callable[[], bytes], user: User, parent: int, far: int) -> None:
    """Give up root, look, and say what comes of it."""
    data = privileges.shed("controller", lambda: {far}, handed)
    privileges.limit_short(_CHILD_OCTETS)
    privileges.drop(*user, parent)
    sandbox.enter("keyd")
    found = examined(case, what, data)
    words = asdict(found)
    words["peerings"] = [one.model_dump(mode="json") for one in found.peerings]
    words["router"] = found.router.model_dump(mode="json") if found.router else None
    words["files"] = {name: data.decode() for name, data in found.files.items()}
    document = words.pop("document")
    line = json.dumps(words).encode()
    if is_too_much(line):
        line = json.dumps({**asdict(Found(REFUSED, why="more than fwd takes while it runs")), "document": ""}).encode()
        document = b""
    say(far, line, b"\n", document)


def examined(case: Case, what: What, data: bytes) -> Found:
    """Answer one question. Nothing is read or written: it is all in `case` and `data`."""
    known = Known(case.kept, case.key, case.host)
    held = known.held.order if known.held else None
    about: dict[str, Any] = {"lives": lives_of(case.files), "damaged": known.damaged, "held": held}
    try:
        if what == "certificates":
            files = renewed(data, case.files, time.time())
            about["lives"] = lives_of({**case.files, **files})
            return Found("take", files=files, **about)
        return _of_document(case, what, data, known, about)
    except (DocumentError, UserError) as error:
        return Found(REFUSED, why=str(error), **about)


def _of_document(case: Case, what: What, data: bytes, known: Known, about: dict[str, Any]) -> Found:
    if what == "start":
        if known.document is None:
            return Found(NONE, order=case.kept.seen, **about)
        try:
            return _admitted(case, "take", known.document, b"", about)
        except (DocumentError, UserError) as error:  # what was carried is not to leave in the clear
            return _understood(case, known.document, str(error), about)
    if what == "accept":
        document, data = known.accept()
        return _admitted(case, "take", document, data, about)

    # What is taken is what may be set, too; what is held is looked at when root lets it pass.
    answer, why, document = known.judge(data)
    if answer is Answer.TAKE or (answer is Answer.SAME and document.order != case.applied):
        return _admitted(case, "take", document, data, about)
    return Found(answer.value, document.order, why, document=data if answer is Answer.HOLD else b"", **about)


def _understood(case: Case, document: Document, why: str, about: dict[str, Any]) -> Found:
    """What of a document that cannot be in force is understood all the same."""
    if isinstance(case.local, RouterConfig):
        return Found(REFUSED, document.order, why, router=routed.understood(document.content), **about)
    kept = understood(case.directory.keys(with_crl=False), document.content)
    return Found(REFUSED, document.order, why, tuple(kept), **about)


def _admitted(case: Case, answer: str, document: Document, data: bytes, about: dict[str, Any]) -> Found:
    # Files first: by the CAs of the document its CRL is judged, and with the CRL its peerings.
    files: dict[str, bytes] = {}
    if (text := _pem(document, "ca_bundle")) is not None:
        authorities(text)
        files[CA] = text
    if (text := _pem(document, "crl")) is not None:
        _check_lists(text, authorities(files.get(CA, case.files[CA])))
        files[CRL] = text
    if (key := document.content.get("probe_key")) is not None:
        files[PROBE_KEY] = _probe_key(key)

    # A router has spreads; a gateway peerings, and what is wished of it and them.
    if isinstance(case.local, RouterConfig):
        wish = routed.admit(case.local, document.content)
        return Found(answer, document.order, router=wish, files=files, document=data, **about)
    draining = document.content.get("draining", False)
    if not isinstance(draining, bool):
        raise DocumentError("draining is neither true nor false")
    try:
        rekeys = _rekeys_in(document.content.get("rekeys", {}))
    except ValueError:
        raise DocumentError("rekeys does not say which peering is rekeyed how often") from None
    keys = case.directory.keys(with_crl=CRL in files)
    peerings = admit(case.local, keys, document.content)
    return Found(answer, document.order, "", tuple(peerings), draining, rekeys, files=files, document=data, **about)


def _probe_key(value: object) -> bytes:
    try:
        return probe.key_in(value.encode()).hex().encode() if isinstance(value, str) else probe.key_in(b"")
    except ValueError as error:
        raise DocumentError(f"probe_key: {error}") from None


def _pem(document: Document, name: str) -> bytes | None:
    value = document.content.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii() or len(value) > _PEM_BYTES_MAX:
        raise DocumentError(f"{name} is no text in PEM of {_PEM_BYTES_MAX} octets at most")
    return value.encode()


# -- certificates -----------------------------------------------------------------------------------------------------


def authorities(data: bytes) -> list[x509.Certificate]:
    """Read a bundle of CAs. Raises DocumentError."""
    found = _certificates(data, "ca_bundle")
    for one in found:
        try:
            is_authority = one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_authority = False
        if not is_authority:
            raise DocumentError("ca_bundle has a certificate that is no CA's")
    return found


def _check_lists(data: bytes, issuers: list[x509.Certificate]) -> None:
    """See that each CRL is one of a CA's that is believed. Raises DocumentError."""
    end = b"-----END X509 CRL-----"
    try:
        lists = [x509.load_pem_x509_crl(one + end) for one in data.split(end)[:-1]]
        good = [any(one.is_signature_valid(ca.public_key()) for ca in issuers) for one in lists]  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - an odd name is no ValueError
        raise DocumentError(f"crl cannot be read: {error}") from None
    if not good or not all(good):
        raise DocumentError("crl: it has none, or one that no CA of the bundle has signed")


def renewed(data: bytes, files: Mapping[str, bytes], wall: float) -> dict[str, bytes]:
    """Return the certificates that were renewed, as files. Raises DocumentError for what is not ours, or not yet good:
    a clock is wrong then, and those of before outlast that.
    """
    try:
        words = json.loads(data)
        pairs = {"link": words["link_certificate"], "ike": words["ike_certificate"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DocumentError("renewed certificates of another form") from None

    # Each by itself: of the key that it had, of a CA that is believed, and good already.
    found: dict[str, bytes] = {}
    issuers = authorities(files[CA])
    for name, text in pairs.items():
        file = f"{name}.pem"
        if text is None and file not in files:  # a router has no IKE
            continue
        if not isinstance(text, str) or len(text) > _PEM_BYTES_MAX:
            raise DocumentError(f"the renewed {name} certificate is no text in PEM")
        new, old = _certificates(text.encode(), name)[0], _certificates(files[file], name)[0]
        if why := why_not_ours(new, old, issuers):
            raise DocumentError(f"the renewed {name} certificate {why}")
        if (in_s := new.not_valid_before_utc.timestamp() - wall) > 0:
            raise DocumentError(f"the renewed {name} certificate holds in {in_s:.0f} s: whose clock is wrong?")
        found[file] = new.public_bytes(Encoding.PEM)
    return found


def why_not_ours(new: x509.Certificate, old: x509.Certificate, issuers: list[x509.Certificate]) -> str:
    """Say why a certificate is none that renews another; empty if it is."""
    if new.public_key() != old.public_key():
        return "is for another key"
    if new.subject != old.subject or _names(new) != _names(old):
        return "has other names"
    if new.not_valid_before_utc < old.not_valid_before_utc:
        return "is older than that of before"
    for one in issuers:
        try:
            new.verify_directly_issued_by(one)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return ""
    return "is of no CA that is known here"


def lives_of(files: Mapping[str, bytes]) -> dict[str, Validity]:
    """Return when the certificates begin and end, by name; without those that cannot be read."""
    found: dict[str, Validity] = {}
    for name in ("link", "ike"):
        try:
            one = _certificates(files.get(f"{name}.pem", b""), name)[0]
        except DocumentError:
            continue
        begins, ends = one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()
        found[name] = Validity(int(begins), int(ends))
    return found


def _certificates(data: bytes, what: str) -> list[x509.Certificate]:
    try:
        return list(x509.load_pem_x509_certificates(data))
    except (ValueError, x509.InvalidVersion):
        raise DocumentError(f"{what}: no certificate in PEM") from None


def _names(one: x509.Certificate) -> object:
    try:
        return one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
