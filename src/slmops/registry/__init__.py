"""The registry: an OCI image layout of content-addressed artifacts, and a catalog that is rebuilt from it.

    references.py   name[:tag] and sha256:...; what a user types is never a path
    blobs.py        blobs/sha256/<hex>: added whole, hashed as they are written
    manifest.py     the ModelPack manifest of an artifact, and of what is attached to one
    index.py        index.json: which manifests there are, and their tags
    catalog.py      SQLite: names, lineage, measurements, gates, leases, verified files
    founding.py     where it lies, and how it begins
    registry.py     the object that verbs open: add, resolve, place, tag, lease
    policy.py       what may come in, be opened, and be promoted
    placing.py      the folder that an engine opens: hard links to blobs
    archive.py      export and import; gc.py, fsck.py, lineage.py

Manifests and index.json are the truth. This room needs the standard library and core, and starts in milliseconds.
"""

from __future__ import annotations

from slmops.registry.founding import exists as exists
from slmops.registry.founding import home as home
from slmops.registry.registry import Registry as Registry
