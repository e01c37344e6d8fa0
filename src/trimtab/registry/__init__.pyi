from trimtab.registry.loading import LoadedModel as LoadedModel
from trimtab.registry.registry import Registry as Registry
from trimtab.registry.versions import AliasMove as AliasMove
from trimtab.registry.versions import Version as Version

__all__: list[str]
