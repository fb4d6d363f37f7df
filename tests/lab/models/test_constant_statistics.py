import torch
from torch import nn

from linear_backprop_lab.models import ConstantBatchNorm1d, calibrate


def test_the_statistics_of_units_are_those_of_the_calibration_and_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), ConstantBatchNorm1d(4)).double()
    x = torch.randn(50, 3, dtype=torch.float64)
    calibrate(model, x)
    a = model[0](x).detach()
    expected = (a - a.mean(0)) / (a.var(0) + model[1].eps).sqrt()
    torch.testing.assert_close(model.train()(x).detach(), expected, rtol=1e-12, atol=1e-12)  # float64
    model(10 * x + 1)
    torch.testing.assert_close(model[1].running_mean, a.mean(0), rtol=1e-12, atol=1e-12)
