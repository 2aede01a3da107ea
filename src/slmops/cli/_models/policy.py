"""slmops models policy: say what the policy is, and whether its file is one."""

from __future__ import annotations

import argparse

from slmops.cli._sub import Said

HELP = "say what the policy is (policy.yaml), and whether its file is one"
EXAMPLE = "slmops models policy"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of policy.yaml, for editors")


def run(arguments: argparse.Namespace) -> Said:
    import dataclasses
    import json

    from slmops.cli import _text
    from slmops.registry import home, policy

    if arguments.schema:
        return Said(policy.schema(), json.dumps(policy.schema(), indent=1))
    found = policy.load(home())
    facts = json.loads(json.dumps(dataclasses.asdict(found), default=str))
    approval = found.approval
    signers = []
    for one in found.require_signature:
        who = [path.name for path in (*one.keys, *one.authorities)] + [each.identity for each in one.identities]
        signers.append(f"{', '.join(one.sources)}: {', '.join(who)}")
    pairs = [
        ("file", f"{found.path}{'' if found.path.exists() else ' (there is none: the defaults)'}"),
        ("sources", ", ".join(found.sources) or "none"),
        ("most bytes", _text.size(found.most_bytes) if found.most_bytes is not None else "no limit"),
        ("files are hashed", found.verify),
        ("signatures", "\n".join(signers) or "not asked for"),
        ("licences", "all" if found.allow is None else ", ".join(found.allow) or "none"),
        ("but not", ", ".join(found.deny)),
        ("if not stated", found.unknown),
        ("approved tags", ", ".join(approval.tags) or "none"),
        ("by", ", ".join(approval.by) or "anyone"),
        ("with gates", ", ".join(approval.gates) or "each that blocks and was measured"),
        ("believed from", ", ".join(approval.sources) or "here only"),
    ]
    return Said(facts, _text.pairs(pairs))
