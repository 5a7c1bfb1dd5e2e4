"""Which client a caller is: by the names in its certificate, by its token, or by both.

Nobody is a client by default. A caller who shows two things must be the same client by both, so
that neither a stolen token nor a certificate of somebody else's is enough where both are in use.
"""

from __future__ import annotations

from ndoo.server.caller import Caller
from ndoo.server.policy import ClientPolicy, Policy
from ndoo.server.status import NotIdentified
from ndoo.server.tokens import Tokens


def identify(caller: Caller, policy: Policy, tokens: Tokens | None, now: float) -> ClientPolicy:
    """The one client of *policy* that *caller* is at *now* (Unix seconds). Raises NotIdentified."""
    shown = []
    if caller.names:
        shown.append(_by_certificate(caller.names, policy))
    if caller.token:
        shown.append(_by_token(caller.token, policy, tokens, now))
    if not shown:
        raise NotIdentified(
            "This service answers known clients alone: show a certificate or token."
        )
    if any(client is not shown[0] for client in shown):
        raise NotIdentified("The certificate and the token of this call are of different clients.")
    return shown[0]


def _by_certificate(names: tuple[str, ...], policy: Policy) -> ClientPolicy:
    known = {
        client.name: client
        for name in names
        if (client := policy.by_certificate_name.get(name)) is not None
    }
    if not known:
        raise NotIdentified("The certificate of this call is of no client that is known here.")
    if len(known) > 1:
        raise NotIdentified("The certificate of this call is of several clients at once.")
    return known.popitem()[1]


def _by_token(token: str, policy: Policy, tokens: Tokens | None, now: float) -> ClientPolicy:
    if tokens is None:
        raise NotIdentified("This service takes no tokens; show a certificate alone.")
    client = policy.by_token_subject.get(tokens.subject_of(token, now))
    if client is None:
        raise NotIdentified("The token of this call is of no client that is known here.")
    return client
