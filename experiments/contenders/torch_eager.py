"""PyTorch as its users run it: eager or compiled, in batches with frozen weights, or image by image as published."""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.contenders import meter, torch_attacks, weights
from experiments.contenders.torch_models import build
from experiments.contenders.torch_steps import Images, Project, gradient, in_ball
from experiments.contenders.torch_training import training_runner
from experiments.contenders.worker import Runner
from experiments.contenders.workloads import (
    ATTACKS,
    EPSILON,
    SCORE_RANGE,
    STEP_SIZE,
    TRAINING,
    Workload,
    labels,
    levels,
)


class Eager:
    """Batches with frozen weights."""

    def __init__(self, device: str, precision: str, *, channels_last: bool = False, compiled: bool = False) -> None:
        """Set PyTorch up.

        Args:
          device: cpu or gpu.
          precision: highest, tf32 or bf16; weights and activations are stored in bf16.
          channels_last: memory format of weights and images.
          compiled: compile networks with `torch.compile`.

        Raises:
          RuntimeError: when PyTorch does not find the device.
        """
        if device == "gpu" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no gpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiled = compiled

    def facts(self) -> dict[str, Any]:
        """Device and versions."""
        cpu = self.device.type == "cpu"
        name = f"cpu, {torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name()
        return {
            "device": "cpu" if cpu else "gpu",
            "device_name": name,
            "versions": {"torch": metadata.version("torch")},
        }

    def peak_flops(self) -> float:
        """Rate of matrix products."""
        side, products = (2048, 1) if self.device.type == "cpu" else (4096, 20)
        matrix = torch.randn(side, side, device=self.device, dtype=self.dtype)
        return meter.product_rate(lambda: matrix @ matrix, lambda _: self.wait(), side, products)

    def count_flops(self, workload: Workload) -> int | None:
        """Operations of matrix products and convolutions; None with a penalty: its gradients PyTorch cannot count."""
        if TRAINING.get(workload.task):
            return None
        run = self.prepare(workload)
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    def prepare(self, workload: Workload) -> Runner:
        """See `worker.Contender`."""
        if workload.task in TRAINING:
            return self.training(workload)
        model, parts = self.model(workload.model), self.parts(self.images(workload))
        balls, state = [in_ball(part, EPSILON) for part in parts], list(parts)

        def step() -> np.ndarray:
            moved = [self.step(model, images, ball) for images, ball in zip(state, balls)]
            state[:] = [images for images, _ in moved]
            return self.host(torch.cat([scores for _, scores in moved]))

        def attack() -> np.ndarray:
            return self.host(torch.cat([self.attack(workload.task, model, part)[1] for part in parts]))

        return step if workload.task == "step" else attack

    def training(self, workload: Workload, *, literal: bool = False) -> Runner:
        """Steps of training."""
        network: Any = self.network(workload.model)
        run = training_runner(network, self.images(workload), labels(workload), workload.task, literal=literal)

        def waited() -> np.ndarray:
            loss = run()
            self.wait()
            return loss

        return waited

    def attack(self, task: str, model: Any, clean: Images) -> tuple[Images, Tensor]:
        """Adversarial images and their scores."""
        name, steps = ATTACKS[task]
        images = torch_attacks.ATTACKS[name](lambda x: -model(x) / SCORE_RANGE, clean, steps=steps)
        with torch.no_grad():
            return images, model(images)

    def step(self, model: Any, images: Images, ball: Project) -> tuple[Images, Tensor]:
        """Images one step further, within a ball, and the scores before."""
        scores, slope = gradient(model, images)
        return ball(images + STEP_SIZE * slope.sign()), scores

    def model(self, name: str) -> Any:
        """The network with the shared weights, on the device, ready to be called."""
        network = self.network(name).requires_grad_(False)
        if not self.compiled:
            return network
        torch._dynamo.reset()
        return torch.compile(network, dynamic=False)

    def network(self, name: str) -> nn.Module:
        """The network with the shared weights, on the device."""
        network: Any = build(name, weights.of_model(name), self.dtype)
        return network.to(self.device, memory_format=self.format)

    def parts(self, images: Images) -> tuple[Tensor, ...]:
        """What is computed together."""
        return (images,)

    def images(self, workload: Workload) -> Tensor:
        """The clean images on the device."""
        images = torch.from_numpy(levels(workload)).permute(0, 3, 1, 2)
        return images.to(self.device).contiguous(memory_format=self.format)

    def host(self, scores: Tensor) -> np.ndarray:
        """Scores on the host, when everything that was started is done."""
        self.wait()
        return scores.detach().float().cpu().numpy()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def reset_peak_memory(self) -> None:
        """Of the process or of the device."""
        meter.reset_peak_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> int | None:
        """Of the process on a CPU, else of the device."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else meter.peak_memory()


class OneByOne(Eager):
    """One image after another, with gradients of the weights computed as well, as the reference repositories do.

    Or with frozen weights, as who takes care does. Steps of training are those of batches, with all published passes.
    """

    def __init__(self, device: str, precision: str, *, frozen: bool = False) -> None:
        """As the base class, with or without frozen weights."""
        super().__init__(device, precision)
        self._frozen = frozen

    def prepare(self, workload: Workload) -> Runner:
        """See `worker.Contender`."""
        return self._folder(workload) if workload.task == "folder" else super().prepare(workload)

    def training(self, workload: Workload, *, literal: bool = True) -> Runner:
        """As published."""
        return super().training(workload, literal=literal)

    def parts(self, images: Images) -> tuple[Tensor, ...]:
        """Single images."""
        return images.split(1)

    def model(self, name: str) -> Any:
        """A network whose weights ask for new gradients at every call, unless they are frozen."""
        if self._frozen:
            return super().model(name)
        network = self.network(name)

        def scored(images: Images) -> Tensor:
            network.zero_grad()
            return network(images)

        return scored

    def _folder(self, workload: Workload) -> Runner:
        """The usual loop over files."""
        network, paths = self.network(workload.model), [Path(workload.folder) / name for name in workload.files]

        def run() -> np.ndarray:
            scores = []
            for path in paths:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
                image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.device)
                with torch.no_grad():
                    scores.append(network(image).item())
            return np.array(scores)

        return run
