"""What every script shares: configurations as flags, errors as one sentence with exit code 2, JAX's start-up.

A script is a frozen dataclass whose fields are made by `flag`, a ``run(config)`` that can be imported, and a short
``main(config)``. Flags exist only in the process whose script was started: importing one defines none.
"""

import contextlib
import dataclasses
import logging
import os
import sys
import typing
from collections.abc import Callable, Iterable
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import app, flags

from experiments import compilation, heap, processes
from experiments.errors import UserError

Config = TypeVar("Config")
REQUIRED: Any = dataclasses.MISSING

_DEFINE: dict[type, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def flag(default: Any, text: str, choices: Iterable[str] | None = None) -> Any:
    """A field of a script's configuration that is also a flag.

    Args:
      default: default value, or `REQUIRED`.
      text: help text.
      choices: accepted values, where only some are.
    """
    metadata = {"help": text, "choices": None if choices is None else list(choices)}
    return dataclasses.field(metadata=metadata, **({} if default is REQUIRED else {"default": default}))


def run(config_type: type[Config], main: Callable[[Config], int]) -> None:
    """Run a script: flags from the fields of its configuration, JAX set up, then ``main(config)``.

    Exits with what ``main`` returns. A `UserError` becomes one line on stderr and exit code 2. Ctrl-C ends with 130;
    the run can be resumed.
    """
    for field in _fields(config_type):
        _define(field)
    app.run(lambda argv: _guarded(config_type, main, argv), flags_parser=_parse)


def _fields(config_type: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(config_type)


def _define(field: dataclasses.Field) -> None:
    default: Any = None if field.default is REQUIRED else field.default
    text = field.metadata["help"]
    # --help lists the flags of the started script, which absl knows by this name.
    options: dict[str, Any] = {"module_name": sys.argv[0]}
    if field.metadata["choices"] is not None:
        flags.DEFINE_enum(field.name, default, field.metadata["choices"], text, **options)
    else:
        kind = next(kind for kind in _DEFINE if kind is field.type or kind in typing.get_args(field.type))
        _DEFINE[kind](field.name, default, text, **options)


def _guarded(config_type: type[Config], main: Callable[[Config], int], argv: list[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument '{argv[1]}'; every setting is a flag, see --help")
        config = _config(config_type)
        set_up_jax(config if isinstance(config, Machine) else None)
        with compilation.watch() as compilations:
            code = main(config)
        if compilations.programs and processes.is_first():
            print(f"{compilations.describe()}; they are kept in {cache_folder()}", file=sys.stderr)
        return code
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted; the same command continues the run", file=sys.stderr)
        return 130


def _config(config_type: type[Config]) -> Config:
    values = {field.name: flags.FLAGS[field.name].value for field in _fields(config_type)}
    missing = [f"--{f.name}" for f in _fields(config_type) if f.default is REQUIRED and values[f.name] is None]
    if missing:
        raise UserError(f"missing {', '.join(missing)}; see --help")
    return config_type(**values)


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv) if _wants_help(argv) else flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_fail(" ".join(str(error).split())))


def _wants_help(argv: list[str]) -> bool:
    return any(argument.lstrip("-").split("=")[0] in {"help", "helpshort", "helpfull", "?"} for argument in argv[1:])


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Settings of every script that computes: on which devices, and with which other processes."""

    devices: int = flag(0, "Number of devices of this process; 0 is all of them, and one per core on a CPU.")
    coordinator: str = flag("", "HOST:PORT of the first process; auto asks the TPU pod. Slurm and Open MPI need none.")
    num_processes: int = flag(0, "Number of processes, with --coordinator.")
    process_id: int = flag(-1, "Number of this process, from 0, with --coordinator.")
    keep_memory: bool = flag(
        True, "Keep freed memory of small models, which is faster; --nokeep_memory needs less, and compiles longer."
    )


def machine_of(config: Machine) -> dict[str, Any]:
    """The settings of the machine, for the configuration of another script."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Machine)}


def set_up_jax(machine: Machine | None = None) -> None:
    """Exact float32 products on every backend, compiled programs kept between runs, devices and other processes."""
    machine = machine or Machine()
    heap.use_arenas(_cores() + 1 if machine.keep_memory else 1)
    if machine.keep_memory:
        heap.keep_freed_memory()
    else:
        _compile_in_less_memory()
    logging.getLogger("jax").setLevel(logging.WARNING)  # backends that are not installed are no news
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with contextlib.suppress(RuntimeError):  # in a notebook, JAX may have started already
        jax.config.update("jax_num_cpu_devices", machine.devices if machine.devices > 0 else _cores())
    processes.join(machine.coordinator, machine.num_processes, machine.process_id)


def _compile_in_less_memory() -> None:
    """Let XLA's older emitters make loops for CPUs: what compiling a network leaves behind is 50 MB smaller."""
    if metadata.version("jaxlib").startswith("0.10."):  # an option that XLA does not know ends the process
        os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}".strip()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def double_precision() -> contextlib.AbstractContextManager:
    """64-bit numbers inside a ``with`` statement."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64(True)  # type: ignore[attr-defined]  # before JAX 0.8


def devices(machine: Machine) -> list[jax.Device]:
    """The devices that a script asked for.

    Raises:
      UserError: when there are fewer.
    """
    local = jax.local_devices()
    if not 0 <= machine.devices <= len(local):
        raise UserError(f"--devices={machine.devices}: there are {len(local)} devices; give 0 for all of them")
    return local[: machine.devices or None]


def training_devices(machine: Machine) -> list[jax.Device]:
    """The devices that share each batch of a training: those that a script asked for, by default a single one on a CPU.

    All cores work on each operation of one device. A device per core would wait for the others at every batch norm.

    Raises:
      UserError: as `devices`.
    """
    found = devices(machine)
    return found[:1] if machine.devices == 0 and found[0].platform == "cpu" else found


def cache_folder() -> Path:
    """Where compiled programs are kept between runs."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(folder) if folder else cache_home() / "xla"


def cache_home() -> Path:
    """Where what can be made again is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nriqa_jax"


def parse_epsilon(text: str, name: str = "epsilon") -> float:
    """Read a radius or step size such as ``4/255`` or ``0.0157``.

    Raises:
      UserError: when it is no number, or not in (0, 1].
    """
    try:
        numerator, _, denominator = text.replace(" ", "").partition("/")
        value = float(Fraction(numerator) / Fraction(denominator or 1))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--{name}={text} is not a number; give one like 4/255 or 0.0157") from error
    if not 0 < value <= 1:
        raise UserError(f"--{name}={text} is outside (0, 1]; pixel values are in [0, 1], so give one like 4/255")
    return value


def format_epsilon(epsilon: float) -> str:
    """A radius as k/255."""
    return f"{epsilon * 255:.6g}/255"
