"""Static files whose names contain the hash of their content, so that browsers may cache them forever."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):
    # The page's scripts are ES modules that import each other by relative path. Without this, only url() in CSS is rewritten.
    support_js_module_import_aggregation = True
