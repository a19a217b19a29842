"""The meta-step in PyTorch: the loop over tasks that the published code has, and `torch.func`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn

from experiments.benchmarks.workload import (
    INNER_LR,
    OUTER_LR,
    Workload,
    make_episodes,
    make_features,
    make_test_episodes,
)

Params = dict[str, Tensor]
BLOCKS = 4


def to_torch(params: Mapping[str, np.ndarray]) -> Params:
    """Our parameters (NHWC, HWIO) in PyTorch's layout (NCHW, OIHW)."""
    filters = len(params["_Convolution_0/bias"])

    def convert(name: str, value: np.ndarray) -> np.ndarray:
        if name == "Dense_0/kernel":  # flattened (row, column, channel) -> (channel, row, column)
            side = int((len(value) // filters) ** 0.5)
            value = value.reshape(side, side, filters, -1).transpose(3, 2, 0, 1)
            return value.reshape(len(value), -1)
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value

    return {name: torch.tensor(convert(name, value)) for name, value in params.items()}


def from_torch(params: Params) -> dict[str, np.ndarray]:
    """The inverse of `to_torch`."""
    filters = len(params["_Convolution_0/bias"])

    def convert(name: str, tensor: Tensor) -> np.ndarray:
        value = tensor.detach().cpu().numpy()
        if name == "Dense_0/kernel":
            side = int((value.shape[1] // filters) ** 0.5)
            value = value.reshape(-1, filters, side, side).transpose(2, 3, 1, 0)
            return value.reshape(side * side * filters, -1)
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value

    return {name: convert(name, tensor) for name, tensor in params.items()}


def _library_norm(maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return nn.batch_norm(maps, None, None, scale, bias, training=True)


def _written_out_norm(maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
    normal = (maps - mean) * torch.rsqrt(variance + 1e-5)
    return normal * scale[:, None, None] + bias[:, None, None]


def _logits(
    params: Params, clips: Tensor, batch_norm: Callable[..., Tensor] = _library_norm
) -> Tensor:
    maps = clips[:, None]
    for block in range(BLOCKS):
        kernel, bias = (params[f"_Convolution_{block}/{leaf}"] for leaf in ("kernel", "bias"))
        maps = nn.relu(nn.conv2d(maps, kernel, bias, stride=2, padding=1))
        scale, bias = (params[f"BatchNorm_{block}/{leaf}"] for leaf in ("scale", "bias"))
        maps = batch_norm(maps, scale, bias)
    return nn.linear(maps.flatten(1), params["Dense_0/kernel"], params["Dense_0/bias"])


def _loss(
    params: Params, clips: Tensor, labels: Tensor, batch_norm: Callable[..., Tensor] = _library_norm
) -> Tensor:
    return nn.cross_entropy(_logits(params, clips, batch_norm), labels)


def _step_down(params: Params, gradient: Params) -> Params:
    return {name: value - INNER_LR * gradient[name] for name, value in params.items()}


def loop_gradient(workload: Workload, params: Params, tasks: tuple[Tensor, ...]) -> Tensor:
    """The mean query loss; leaves its gradient in `.grad` of the parameters.

    Each task's graph is freed before the next is made, which takes the least memory and time.
    """
    total = torch.zeros(())
    for support, support_labels, query, query_labels in zip(*tasks, strict=True):
        theta = params
        for _ in range(workload.steps):
            gradient = torch.autograd.grad(
                _loss(theta, support, support_labels),
                list(theta.values()),
                create_graph=not workload.first_order,
            )
            theta = _step_down(theta, dict(zip(theta, gradient, strict=True)))
        loss = _loss(theta, query, query_labels) / workload.tasks
        loss.backward()
        total += loss.detach().cpu()
    return total


def vmap_gradient(workload: Workload, params: Params, tasks: tuple[Tensor, ...]) -> Tensor:
    """As `loop_gradient`, all tasks at once.

    Under `vmap` the second derivative of the library's batch normalisation was seen to differ by
    percents from that of the same formula written out, which agrees with the loop.
    """
    loss = partial(_loss, batch_norm=_written_out_norm)

    def task_loss(params: Params, support: Tensor, support_labels: Tensor, *query: Tensor) -> Any:
        theta = params
        for _ in range(workload.steps):
            gradient = torch.func.grad(loss)(theta, support, support_labels)
            if workload.first_order:
                gradient = {name: value.detach() for name, value in gradient.items()}
            theta = _step_down(theta, gradient)
        return loss(theta, *query)

    def batch_loss(params: Params) -> Tensor:
        over_tasks = torch.func.vmap(partial(task_loss, params))
        return over_tasks(*tasks).mean()

    detached = {name: value.detach() for name, value in params.items()}
    gradient, mean_loss = torch.func.grad_and_value(batch_loss)(detached)
    for name, value in params.items():
        value.grad = gradient[name].detach()
    return mean_loss.detach()


def make_evaluation(
    workload: Workload, initial: Mapping[str, np.ndarray]
) -> Callable[[int], np.ndarray]:
    """Number of episodes -> query logits before adaptation and after each step, in a loop."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = {k: v.to(device).requires_grad_() for k, v in to_torch(initial).items()}
    features = torch.tensor(make_features(), device=device)

    def answer(theta: Params, query: Tensor) -> np.ndarray:
        with torch.no_grad():
            return _logits(theta, query).cpu().numpy()

    def evaluate(episodes: int) -> np.ndarray:
        logits = []
        for support, labels, query, _ in zip(*make_test_episodes(episodes), strict=True):
            theta, path = params, [answer(params, features[query])]
            for _ in range(workload.steps):
                targets = torch.tensor(labels.astype(np.int64), device=device)
                loss = _loss(theta, features[support], targets)
                gradient = torch.autograd.grad(loss, list(theta.values()))
                theta = _step_down(theta, dict(zip(theta, gradient, strict=True)))
                theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
                path.append(answer(theta, features[query]))
            logits.append(np.stack(path))
        return np.stack(logits)

    return evaluate


PEERS = {"torch loop": loop_gradient, "torch.func vmap": vmap_gradient}


def make_step(
    name: str, workload: Workload, initial: Mapping[str, np.ndarray]
) -> tuple[Callable[[], float], Callable[[], dict[str, np.ndarray]]]:
    """A meta-step of the named peer (-> loss), and what gives the last step's gradient.

    On a GPU float32 stays float32, as in ours.
    """
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = {k: v.to(device).requires_grad_() for k, v in to_torch(initial).items()}
    optimizer = torch.optim.Adam(params.values(), OUTER_LR)
    features = torch.tensor(make_features(), device=device)
    episodes = [
        torch.tensor(array.astype(np.int64), device=device)
        for array in make_episodes(workload.tasks)
    ]

    def step() -> float:
        support, support_labels, query, query_labels = episodes
        tasks = (features[support], support_labels, features[query], query_labels)
        optimizer.zero_grad()
        loss = PEERS[name](workload, params, tasks)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    return step, lambda: from_torch({name: value.grad for name, value in params.items()})
