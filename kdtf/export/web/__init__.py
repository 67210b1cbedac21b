"""A page that runs an exported file in the browser."""

from kdtf.export.web.page import WebPage
from kdtf.export.web.page import write_web_page

__all__ = ["WebPage", "write_web_page"]
