from trimtab.app.inspect.explain import Explanation as Explanation
from trimtab.app.inspect.status_text import Status as Status
from trimtab.app.project import Project as Project
from trimtab.app.project import open_project as open_project
from trimtab.app.state.definitions import Definitions as Definitions
from trimtab.app.state.definitions import load_definitions as load_definitions

__all__: list[str]
