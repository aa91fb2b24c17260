"""A Kafka of one node: the broker of Apache Kafka, from Maven, in a JVM of its own."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Self

from confluent_kafka import Consumer, Producer

from tests.servers.cluster import Cluster, log
from tests.servers.process import Server, ServerError, free_port

__all__ = ("Kafka", "install", "missing")


ROOT = Path(__file__).parents[2]
POM = Path(__file__).with_name("kafka.pom.xml")
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.min.session.timeout.ms=1000
# After a kill, a new process waits until the old one's registration has run out. Where that takes
# longer than it needs to start, transactions lose their marks: see `Kafka.lost_marks`.
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
controller.quorum.election.timeout.ms=200
controller.quorum.election.backoff.max.ms=200
log.cleaner.dedupe.buffer.size=8388608
# After a kill it reads and writes the indexes of every partition anew.
log.index.size.max.bytes=65536
"""
LOGGING = """\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
# What it says where it never writes the mark at the end of a transaction: see `Kafka.lost_marks`.
logger.marks.name=kafka.coordinator.transaction.TransactionMarkerChannelManager
logger.marks.level=INFO
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
"""


def missing() -> str | None:
    """What a Kafka can't run without here; ``None`` when all is there."""
    lacking = [name for name in ("java", "mvn", "setpriv") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not found" if lacking else None


def install() -> Path:
    """The directory of Kafka's jars; brought by Maven the first time.

    Raises:
        ServerError: Maven could not.
    """
    where = ROOT / ".cache" / "kafka"
    libs = where / "libs"
    wanted = POM.read_text()
    done = where / "pom.xml"
    where.mkdir(parents=True, exist_ok=True)
    with (where / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once
        if done.exists() and done.read_text() == wanted:
            return libs
        print("kafka: getting its jars, 43 MB", file=sys.stderr, flush=True)
        shutil.rmtree(libs, ignore_errors=True)
        # Maven has plugins of its own to get; it is told not to say from where.
        made = subprocess.run(
            [
                *("mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies"),
                *("-DincludeScope=runtime", f"-DoutputDirectory={libs}"),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if made.returncode:
            raise ServerError(f"mvn ended with {made.returncode}:\n{made.stdout[-3_000:]}")
        done.write_text(wanted)
    return libs


def new_cluster_id() -> str:
    """A random one. With a ``-`` in front, as one of 64 has, it would be taken for an option."""
    while True:
        found = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not found.startswith("-"):
            return found


class Kafka(Server, Cluster):
    """A node that is broker and controller, with its data in a directory.

    ``PLAINTEXT``, without authentication; topics have to be created.
    """

    def __init__(self, directory: Path, *, extra: str = "") -> None:
        port = free_port()
        libs = install()
        self._classes = f"{libs}/*"
        self._properties = directory / "server.properties"
        log_settings = directory / "log4j2.properties"
        log_settings.write_text(LOGGING)
        self._properties.write_text(
            (CONFIGURATION + extra).format(
                port=port, controller=free_port(), data=directory / "data"
            )
        )
        super().__init__(
            [
                *("java", "-Xms128m", "-Xmx512m", *JVM),
                f"-Dlog4j2.configurationFile={log_settings}",
                *(f"-Dkafka.logs.dir={directory}", "-cp", self._classes),
                *("kafka.Kafka", str(self._properties)),
            ],
            directory=directory,
            port=port,
        )
        Cluster.__init__(self, f"127.0.0.1:{port}")

    def warm_up(self) -> None:
        """Have it make what it makes on first use, which takes seconds."""
        topic = self.create_topic("warm-up")
        common: dict[str, Any] = {"bootstrap.servers": self.address, "logger": log}
        producer = Producer(common | {"enable.idempotence": True})
        producer.produce(topic, b"x")
        consumer = Consumer(common | {"group.id": "warm-up", "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        if producer.flush(60) or consumer.poll(60) is None:
            raise ServerError(f"it takes nothing:\n{self.tail()}")
        consumer.close()
        producer.close()

    @classmethod
    def started(cls, directory: Path) -> Self:
        """One that runs; tried again where somebody else took its port first.

        Raises:
            ServerError: It does not start.
        """
        failures: list[ServerError] = []
        while len(failures) < 3:
            own = directory / str(len(failures))
            own.mkdir()
            server = cls(own)
            try:
                server.format()
                server.start(within=60)
                server.warm_up()
            except ServerError as exc:
                server.discard()
                failures.append(exc)
            else:
                return server
        raise failures[-1]

    def lost_marks(self) -> list[str]:
        """What it said of partitions in which it leaves a transaction without an end.

        A Kafka 4.4.0 that comes back after a kill leads its partitions until its old registration
        has run out, and then nothing for a moment. Its transaction coordinator takes those without
        a leader for deleted: a transaction that it ends in that time has no mark there, and hides
        from readers of what is committed all that follows, for good.
        """
        said = self.log.read_text(errors="replace").splitlines()
        return [line for line in said if "likely deleted already" in line]

    def discard(self) -> None:
        """It will not be used any more."""
        self.kill()

    def format(self) -> None:
        """Prepare its data directory, once.

        Raises:
            ServerError: It can't be.
        """
        cluster = new_cluster_id()
        made = subprocess.run(
            [
                *("java", "-Xmx128m", *JVM, "-cp", self._classes, "kafka.tools.StorageTool"),
                *("format", "--ignore-formatted", "-t", cluster, "-c", str(self._properties)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"LOG_DIR": str(self._properties.parent)},
        )
        if made.returncode:
            raise ServerError(f"format ended with {made.returncode}:\n{made.stdout}{made.stderr}")
