"""Schemes: how numbers become codes. One scheme a file, named as on the command line; a file holds `SCHEME`."""
