"""Static files under names that carry their content's hash, so that a browser may keep them for ever."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):
    # The page's scripts are ES modules that import one another by relative path; without this only url() is rewritten.
    support_js_module_import_aggregation = True
