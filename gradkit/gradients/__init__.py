"""What a person does with the gradient of a loss besides descending it: a loss function flows in, pure functions flow out.

``value_and_grad`` refuses what has no gradient; ``per_example`` and ``accumulate`` walk through a batch; ``hvp`` multiplies by
the Hessian; ``check`` compares a gradient with the slopes of its loss and names the leaf that is wrong.
"""

from gradkit.gradients.batches import accumulate as accumulate
from gradkit.gradients.batches import per_example as per_example
from gradkit.gradients.checking import GradientCheck as GradientCheck
from gradkit.gradients.checking import LeafCheck as LeafCheck
from gradkit.gradients.checking import Verdict as Verdict
from gradkit.gradients.checking import check as check
from gradkit.gradients.values import hvp as hvp
from gradkit.gradients.values import value_and_grad as value_and_grad
