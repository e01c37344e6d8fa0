from trimtab.steering.gate.gate import judge as judge
from trimtab.steering.gate.window import Window as Window

__all__: list[str]
