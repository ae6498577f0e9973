"""What a simulation's faster start relies on in Flower. Without it the simulation starts as Flower itself starts it."""

from __future__ import annotations

from cogen.flower.patches.patch import Patch, uses

RAY_BACKEND = "flwr.server.superlink.fleet.vce.backend.raybackend"
SUPEREXEC_OPTIONS = {"--insecure", "--runtime-api-address", "--parent-pid"}

SIMULATION_PATCHES = (
    Patch(
        "simulation_ray_actors",
        changes="Nothing here. `cogen.flower.prefork_ray` starts Ray and replaces the actor class by actors that it made.",
        reason="Flower starts Ray when it has a run, and actors when Ray is up: some 10 s before the first training step.",
        versions=">=1.41,<1.43",
        places=(
            RAY_BACKEND,
            f"{RAY_BACKEND}:ClientAppActor",
            f"{RAY_BACKEND}:RayBackend.init_ray",
            "flwr.simulation.ray_transport.ray_actor",
        ),
        fits=lambda backend, actor, init_ray, module: callable(actor.options) and uses(init_ray, "is_initialized"),
        has_fallback=True,
    ),
    Patch(
        "simulation_program",
        changes="Nothing here. `cogen.flower.prefork` runs this entry point in a fork.",
        reason="Each of Flower's programs imports the same 1.5 s of code.",
        versions=">=1.41,<1.43",
        places=("flwr.simulation.app:flwr_simulation",),
        fits=callable,
        has_fallback=True,
    ),
    Patch(
        "superlink_programs",
        changes="Nothing here. `cogen.flower.prefork` runs the first three entry points in forks, and starts SuperExec itself.",
        reason="Each of Flower's programs imports the same 1.5 s of code.",
        versions=">=1.41,<1.43",
        places=(
            "flwr.superlink.cli:flower_superlink",
            "flwr.supercore.cli:flower_superexec",
            "flwr.cli.app:app",
            "flwr.superlink.main:create_app",
            "flwr.supercore.cli.flower_superexec:_parse_args",
        ),
        fits=lambda superlink, superexec, flwr, create_app, parse: (
            all(map(callable, (superlink, superexec, flwr, create_app)))
            and set(parse()._option_string_actions) >= SUPEREXEC_OPTIONS
        ),
        has_fallback=True,
    ),
)
