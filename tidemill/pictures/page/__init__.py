"""One HTML file with everything in it: pictures, tables, SQL, and the library that draws."""

from __future__ import annotations

from tidemill.pictures.page.building import page

__all__ = ["page"]
