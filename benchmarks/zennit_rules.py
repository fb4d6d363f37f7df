"""The rules of zennit, a peer, loaded without the torchvision whose classes its canonizers name."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_CLASSES = {"vgg": ("VGG",), "resnet": ("Bottleneck", "BasicBlock")}


@contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    stand_ins = {"torchvision": ModuleType("torchvision"), "torchvision.models": ModuleType("torchvision.models")}
    for name, classes in _CLASSES.items():
        stand_ins[f"torchvision.models.{name}"] = module = ModuleType(name)
        vars(module).update({each: type(each, (), {}) for each in classes})
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


with _stand_in_for_torchvision():
    from zennit import rules as rules
