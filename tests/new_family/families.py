# Appended to tests/families.py.

from dgm_lib.models.laplace import LaplacePoints


def laplace() -> Family:  # noqa: F821
    model = LaplacePoints(2)
    return Family(model, {"-log p": Objective(model.loss, adam(model))}, points(), draws=False)  # noqa: F821


FAMILIES["Laplace"] = laplace  # noqa: F821
