"""All request templates of the tools, by tool. The notation is explained in `corpus.py`."""

from __future__ import annotations

import templates_rooms
import templates_things
import templates_words

TEMPLATES = {**templates_rooms.TEMPLATES, **templates_things.TEMPLATES, **templates_words.TEMPLATES}
