"""What goes wrong in a simulated fleet, a function each. When it returns, the trouble is over."""

from __future__ import annotations

import asyncio
import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ringkeeper.wire import Command
from tests.simulator.redis_model import Data, SimDisk, SimRedis

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from tests.simulator.loop import VirtualClock
    from tests.simulator.world import Process, World


async def strike(world: World) -> None:
    """One of all troubles, the likelier ones oftener."""
    chosen = world.random.choices(list(TROUBLES), list(TROUBLES.values()))[0]
    await chosen(world)


# --- processes -----------------------------------------------------------------------------------


async def crash(world: World) -> None:
    """A process is killed, and started again."""
    await _restart(world, [_any(world)], world.random.uniform(0.5, 20))


async def pause(world: World) -> None:
    """A process stands still: SIGSTOP, a suspended machine, a very long garbage collection."""
    process, seconds = _any(world), world.random.uniform(3, 40)
    process.link.wakes_at = max(process.link.wakes_at, world.time + seconds)

    async def sleep() -> None:
        with process.hindered():
            await asyncio.sleep(seconds)

    await _perhaps_meanwhile(world, sleep())


async def _perhaps_meanwhile(world: World, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and perhaps let other troubles begin before it ends."""
    if world.random.random() < 0.5:
        world.spawn(work)
    else:
        await work


async def deafen(world: World) -> None:
    """A subscription hears nothing any more: a router forgot the connection."""
    _any(world).link.is_deaf = True


async def give_wrong_kek(world: World) -> None:
    """An app has the wrong KEK for a while; perhaps Redis is emptied, and an operator rotates."""
    name = world.random.choice(["app0", "app1"])
    world.stop(world.processes[name])
    world.start(name, leads=False, kek=world.some_kek())
    await asyncio.sleep(world.random.uniform(32, 60))
    if world.random.random() < 0.5:
        world.lose(Data())
        await asyncio.sleep(world.random.uniform(0.5, 3))
        world.ask(Command.ROTATE)
        await asyncio.sleep(20)
    world.stop(world.processes[name])
    world.start(name, leads=False)


async def _restart(world: World, processes: Iterable[Process], after: float) -> None:
    for process in processes:
        world.stop(process)
        process.hindrances += 1
    await asyncio.sleep(after)
    for process in processes:
        world.start(process.name, leads=process.leads)


# --- the network ---------------------------------------------------------------------------------


async def cut(world: World) -> None:
    """A process cannot reach Redis, for seconds or for several activations; others go on."""
    process = _any(world)
    seconds = world.random.choice([world.random.uniform(3, 60), world.random.uniform(60, 330)])
    seconds = min(seconds, world.until_calm)

    async def be_away() -> None:
        process.link.cuts += 1
        with process.hindered():
            await asyncio.sleep(seconds)
        process.link.cuts -= 1

    await _perhaps_meanwhile(world, be_away())


async def split(world: World) -> None:
    """Two primaries, each with daemons and apps of its own; in the end one of them wins."""
    former = world.redis
    other = SimRedis(world.redis_clock, world.judge, data=former.copied())
    names = world.random.sample(list(world.processes), world.random.randint(1, 6))
    for name in names:
        _lead_astray(world, name, other)
        former.drop(world.processes[name].link)
    world.is_losing()
    wins = world.random.choice([former, other])
    seconds = world.random.choice([5, 40, 130]) * world.random.uniform(0.5, 1.5)
    await asyncio.sleep(min(seconds, world.until_calm))
    world.redis = wins
    for name in world.reached:
        _lead_astray(world, name, wins)
    world.is_losing()
    (former if wins is other else other).drop()


def _lead_astray(world: World, name: str, redis: SimRedis) -> None:
    """Let the process `name` take `redis` for the primary: as if it had been away."""
    if world.reached[name] is not redis and name in world.processes:
        world.processes[name].mended_at = world.time
    world.reached[name] = redis


# --- Redis ---------------------------------------------------------------------------------------


async def drop_connections(world: World) -> None:
    """Redis closes every connection."""
    world.redis.drop()


async def roll_back(world: World) -> None:
    """Redis comes back with what it held some time ago."""
    world.lose(world.random.choice(world.backups))


async def flush(world: World) -> None:
    """Redis loses all it has."""
    world.lose(Data())


async def lose_sealed(world: World) -> None:
    """Private halves vanish from Redis, and nothing else does."""
    sealed = world.redis.data.sealed
    for kid in world.random.sample(sorted(sealed), world.random.randint(0, len(sealed))):
        del sealed[kid]


async def black_out(world: World) -> None:
    """The power fails: every process dies, and Redis kept nothing on its disk."""
    if not _is_on_disk(world):
        return
    world.lose(Data())
    await _restart(world, list(world.processes.values()), world.random.uniform(1, 10))


async def replace_daemons(world: World) -> None:
    """New hosts for all daemons, without their former disks, and Redis is empty: apps know."""
    apps = [p for p in world.living() if not p.leads and p.kek is world.kek]
    if not any(p.follower.replica.held and _is_current(world, p) for p in apps):
        return
    world.lose(Data())
    daemons = [p for p in world.processes.values() if p.leads]
    for daemon in daemons:
        world.disks[daemon.name] = SimDisk()
    await _restart(world, daemons, world.random.uniform(1, 10))


async def fill_disk(world: World) -> None:
    """A `state_dir` takes nothing for a while."""
    disk = world.random.choice(list(world.disks.values()))
    disk.is_writable = False
    await asyncio.sleep(world.random.uniform(5, 40))
    disk.is_writable = True


def _is_current(world: World, process: Process) -> bool:
    """Whether `process` knows all that Redis holds, private halves too."""
    held, data = process.follower.replica.held, world.redis.data
    if held is None or held.snapshot != data.snapshot or not world.is_whole:
        return False
    return all(key.kid in held.sealed for key in held.ring.may_sign_next)


def _is_on_disk(world: World) -> bool:
    """Whether some disk holds all that Redis holds."""
    data = world.redis.data
    kept = [disk.kept for name, disk in world.disks.items() if name.startswith("daemon")]
    return world.is_whole and any(
        each
        and each.snapshot == data.snapshot
        and all(key.kid in each.sealed for key in world.ring.may_sign_next)
        for each in kept
    )


# --- clocks and operators ------------------------------------------------------------------------


async def step_clock(world: World) -> None:
    """A host's wall clock is ten minutes or an hour off, and then right again."""
    await _step(world, _any(world).clock)


async def step_leader_clock(world: World) -> None:
    """So is that of the host whose daemon leads."""
    name = world.redis.holder().partition("/")[0]
    if name in world.processes:
        await _step(world, world.processes[name].clock)


async def step_redis_clock(world: World) -> None:
    """So is that of Redis' host."""
    await _step(world, world.redis_clock)


async def _step(world: World, clock: VirtualClock) -> None:
    minutes = world.random.choice([-60, -10, 10, 60])
    usual, clock.offset = clock.offset, clock.offset + timedelta(minutes=minutes)
    world.stepped.add(clock)
    await asyncio.sleep(world.random.uniform(1, 30))
    clock.offset = usual
    world.stepped.discard(clock)
    world.disturbed_at = world.time


async def reconfigure(world: World) -> None:
    """The configuration changes, one daemon after another."""
    world.policy = world.random.choice(world.policies)
    for name, leader in copy.copy(world.leaders).items():
        if name.startswith("daemon"):
            leader.change_policy(world.policy)
            await asyncio.sleep(world.random.uniform(0, 3))


def _any(world: World) -> Process:
    return world.random.choice(list(world.processes.values()))


TROUBLES = {
    crash: 4,
    pause: 4,
    deafen: 2,
    give_wrong_kek: 2,
    cut: 8,
    split: 3,
    drop_connections: 2,
    roll_back: 3,
    flush: 2,
    lose_sealed: 1,
    black_out: 1,
    replace_daemons: 1,
    fill_disk: 1,
    step_clock: 2,
    step_leader_clock: 2,
    step_redis_clock: 2,
    reconfigure: 2,
}
