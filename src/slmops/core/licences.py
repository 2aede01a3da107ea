"""Licences in SPDX's spelling (https://spdx.org/licenses/), whatever a model card calls them."""

from __future__ import annotations

import re

ALIASES = {
    "apache": "Apache-2.0", "apache2": "Apache-2.0", "apache-2": "Apache-2.0", "apache2.0": "Apache-2.0",
    "apache-license-2.0": "Apache-2.0", "apache-license-version-2.0": "Apache-2.0", "mit-license": "MIT",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "c-uda": "C-UDA-1.0", "bsd-3": "BSD-3-Clause", "bsd-2": "BSD-2-Clause",
    "cc0": "CC0-1.0", "gplv3": "GPL-3.0-only", "gplv2": "GPL-2.0-only", "agplv3": "AGPL-3.0-only",
}  # fmt: skip
"""What people write, as `_slug` has it; the Hub's own words that SPDX lacks become LicenseRef-WORD."""
NOTHING = {"", "other", "unknown", "none", "custom", "proprietary-unknown"}
MOST = 200
OWN = "LicenseRef-"


def spdx(text: object) -> str | None:
    """The SPDX expression that a text stands for; LicenseRef-NAME where SPDX has none; None where it says nothing."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    said = text.strip()[:MOST] if isinstance(text, str) else ""
    slug = _slug(said)
    if slug in NOTHING or slug.startswith("see-"):  # formats/_licence.py: "see LICENSE"
        return None
    try:
        # Aliases first: SPDX's own spelling of a deprecated name would hide what it became.
        return str(canonicalize_license_expression(ALIASES.get(slug, said)))
    except InvalidLicenseExpression:
        return f"{OWN}{slug}"


def parts(expression: str) -> list[str]:
    """The licences of an expression: `A OR B WITH c` has A and B WITH c."""
    return [one.strip() for one in re.split(r"[()]|\b(?:AND|OR)\b", expression) if one.strip()]


def _slug(text: str) -> str:
    """Letters, digits, dots and dashes: what a LicenseRef may hold."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
