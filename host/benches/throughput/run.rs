//! Runs a contender and measures it from outside.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use sluicegate_demo::servers::Servers;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Runtime;

use crate::child;
use crate::load::{Events, preload};
use crate::watchers::Watchers;

const STREAM: &str = "sluicegate_bench";
const DATABASE: &str = "sluicegate_bench";
const GROUP: &str = "bench";
/// Bounds how long one run may take.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Service,
    Native,
    DatabaseAlone,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Service, Self::Native, Self::DatabaseAlone];

    pub(crate) fn of(self, [service, native, database_alone]: &[Outcome; 3]) -> &Outcome {
        match self {
            Self::Service => service,
            Self::Native => native,
            Self::DatabaseAlone => database_alone,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) events_a_second: f64,
    /// Holds the largest resident memory.
    pub(crate) memory_mb: f64,
    /// Holds the user and system time of the process.
    pub(crate) cpu_micros_an_event: f64,
    /// Holds the time for which any process used a processor, those of Redis and PostgreSQL too.
    pub(crate) machine_micros_an_event: f64,
}

pub(crate) struct Bench {
    runtime: Runtime,
    servers: Servers,
    redis: MultiplexedConnection,
    events: usize,
}

impl Bench {
    pub(crate) fn start(events: usize) -> anyhow::Result<Self> {
        let servers = Servers::start()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = redis::Client::open(servers.redis_url.as_str())?;
        let mut redis = runtime.block_on(client.get_multiplexed_async_connection())?;
        redis.set_response_timeout(Duration::from_secs(60));
        let mut connection = redis.clone();
        runtime.block_on(async {
            redis::cmd("DEL").arg(STREAM).query_async::<()>(&mut connection).await?;
            preload(&mut connection, STREAM, events).await
        })?;
        Ok(Self { runtime, servers, redis, events })
    }

    /// Runs all contenders once, in each round in another order.
    pub(crate) fn round(&self, batch_size: usize, repetition: usize) -> anyhow::Result<[Outcome; 3]> {
        let mut outcomes = [Outcome::default(); 3];
        let mut order: Vec<(Contender, &mut Outcome)> =
            Contender::ALL.into_iter().zip(&mut outcomes).collect();
        order.rotate_left(repetition % 3);
        for (contender, outcome) in order {
            *outcome = self
                .run(contender, batch_size, false)
                .with_context(|| format!("{contender:?}, batch size {batch_size}"))?;
        }
        Ok(outcomes)
    }

    /// Runs the service without watchers and with them, in each round in the other order.
    pub(crate) fn watched_round(&self, batch_size: usize, repetition: usize) -> anyhow::Result<[Outcome; 2]> {
        let mut outcomes = [Outcome::default(); 2];
        let mut order: Vec<(bool, &mut Outcome)> = [false, true].into_iter().zip(&mut outcomes).collect();
        order.rotate_left(repetition % 2);
        for (is_watched, outcome) in order {
            *outcome = self.run(Contender::Service, batch_size, is_watched)?;
        }
        Ok(outcomes)
    }

    fn run(&self, contender: Contender, batch_size: usize, is_watched: bool) -> anyhow::Result<Outcome> {
        self.runtime.block_on(self.fresh_database())?;
        self.runtime.block_on(self.fresh_group(STREAM))?;
        let admin = free_address()?;
        let mut process = self.process(contender, batch_size, admin)?;
        let watchers = is_watched.then(|| Watchers::start(admin));
        if contender == Contender::DatabaseAlone {
            let output = process.0.stdout.take().context("piped")?;
            let seconds: f64 =
                std::io::read_to_string(output)?.trim().parse().context("the child's seconds")?;
            process.0.wait()?;
            return Ok(Outcome { events_a_second: count(self.events) / seconds, ..Outcome::default() });
        }
        let (events_a_second, machine_micros_an_event) = self.runtime.block_on(self.watch())?;
        let (memory_mb, cpu_seconds) = process.usage()?;
        watchers.map(Watchers::finish).transpose()?;
        process.terminate()?;
        let stored = self.runtime.block_on(async {
            let mut connection = self.connect().await?;
            anyhow::Ok(
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM events")
                    .fetch_one(&mut connection)
                    .await?,
            )
        })?;
        ensure!(usize::try_from(stored)? == self.events, "{stored} of {} events are stored", self.events);
        Ok(Outcome {
            events_a_second,
            memory_mb,
            cpu_micros_an_event: cpu_seconds * 1e6 / count(self.events),
            machine_micros_an_event,
        })
    }

    /// Returns the events per second, from the first sign of life to the last acknowledgement, and the microseconds of the
    /// machine's processors that each took.
    async fn watch(&self) -> anyhow::Result<(f64, f64)> {
        let deadline = Instant::now() + DEADLINE;
        let mut begun: Option<(Instant, f64, usize)> = None;
        while Instant::now() < deadline {
            let (read, pending) = self.progress().await?;
            let done = read.saturating_sub(pending);
            match begun {
                None if read > 0 => begun = Some((Instant::now(), machine_seconds()?, done)),
                Some((at, used_before, before)) if read == self.events && pending == 0 => {
                    let events = count(self.events - before);
                    let used = machine_seconds()? - used_before;
                    return Ok((events / at.elapsed().as_secs_f64(), used * 1e6 / events));
                }
                _ => {}
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("not done after {DEADLINE:?}: (read, pending) is {:?}", self.progress().await?)
    }

    /// Returns how many entries the group has read, and how many of them are pending.
    async fn progress(&self) -> anyhow::Result<(usize, usize)> {
        let groups: Vec<redis::Value> =
            redis::cmd("XINFO").arg("GROUPS").arg(STREAM).query_async(&mut self.redis.clone()).await?;
        let group = groups.into_iter().next().context("the group is gone")?;
        let mut numbers = (0, 0);
        for (key, value) in group.into_map_iter().map_err(|_| anyhow::anyhow!("XINFO GROUPS is no map"))? {
            let number = if let redis::Value::Int(number) = value { usize::try_from(number)? } else { 0 };
            match redis::from_redis_value::<String>(key)?.as_str() {
                "entries-read" => numbers.0 = number,
                "pending" => numbers.1 = number,
                _ => {}
            }
        }
        Ok(numbers)
    }

    async fn fresh_group(&self, stream: &str) -> anyhow::Result<()> {
        let mut redis = self.redis.clone();
        let _: redis::Value =
            redis::cmd("XGROUP").arg("DESTROY").arg(stream).arg(GROUP).query_async(&mut redis).await?;
        redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(stream)
            .arg(GROUP)
            .arg("0")
            .query_async::<()>(&mut redis)
            .await?;
        Ok(())
    }

    async fn fresh_database(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.servers.postgres_url).await?;
        for statement in [
            format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"),
            format!("CREATE DATABASE {DATABASE}"),
            "CHECKPOINT".to_owned(),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        Ok(())
    }

    fn database_url(&self) -> anyhow::Result<String> {
        let (server, _) =
            self.servers.postgres_url.rsplit_once('/').context("POSTGRES_URL names no database")?;
        Ok(format!("{server}/{DATABASE}"))
    }

    async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url()?).await?)
    }

    fn process(&self, contender: Contender, batch_size: usize, admin: SocketAddr) -> anyhow::Result<Process> {
        let mut command = match contender {
            Contender::Service => Command::new(env!("CARGO_BIN_EXE_sluicegate")),
            Contender::Native | Contender::DatabaseAlone => Command::new(std::env::current_exe()?),
        };
        match contender {
            Contender::Service => command.arg("run"),
            Contender::Native => command.arg(child::NATIVE),
            Contender::DatabaseAlone => command.arg(child::DATABASE_ALONE).stdout(Stdio::piped()),
        };
        command
            .env("REDIS_URL", &self.servers.redis_url)
            .env("POSTGRES_URL", self.database_url()?)
            .env("STREAM_NAME", STREAM)
            .env("CONSUMER_GROUP", GROUP)
            .env("BATCH_SIZE", batch_size.to_string())
            .env(
                "METRICS_CSV",
                std::env::temp_dir().join(format!("sluicegate-bench-{}.csv", std::process::id())),
            )
            .env("RUST_LOG", "warn")
            .env("ADMIN_LISTEN", admin.to_string())
            .env(child::EVENTS, self.events.to_string());
        Ok(Process(command.spawn().context("starting a contender")?))
    }

    /// Counts the transactions per event at 27 events per second that arrive evenly.
    pub(crate) fn trickle(&self) -> anyhow::Result<String> {
        const EVENTS_PER_SECOND: u32 = 27;
        const SECONDS: u32 = 20;
        let process = self.runtime.block_on(async {
            self.fresh_database().await?;
            let mut redis = self.redis.clone();
            redis::cmd("DEL").arg(STREAM).query_async::<()>(&mut redis).await?;
            let process = self.process(Contender::Service, 100, free_address()?)?;
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
            for event in Events::new(2).take(usize::try_from(EVENTS_PER_SECOND * SECONDS)?) {
                ticks.tick().await;
                redis::cmd("XADD")
                    .arg(STREAM)
                    .arg("*")
                    .arg("data")
                    .arg(event)
                    .query_async::<()>(&mut redis)
                    .await?;
            }
            anyhow::Ok(process)
        })?;
        process.terminate()?;
        let (events, transactions) = self.runtime.block_on(async {
            let mut connection = self.connect().await?;
            let counts =
                sqlx::query_as::<_, (i64, i64)>("SELECT count(*), count(DISTINCT xmin::text) FROM events");
            anyhow::Ok(counts.fetch_one(&mut connection).await?)
        })?;
        let ratio = count(usize::try_from(transactions)?) / count(usize::try_from(events)?);
        Ok(format!(
            "{EVENTS_PER_SECOND} events/s evenly for {SECONDS} s: {transactions} transactions for {events} events, {ratio:.2} an event\n"
        ))
    }
}

impl Drop for Bench {
    /// Removes what the benchmark made, because the servers may be the user's own.
    fn drop(&mut self) {
        let cleaned = self.runtime.block_on(async {
            redis::cmd("DEL").arg(STREAM).query_async::<()>(&mut self.redis.clone()).await?;
            let mut connection = PgConnection::connect(&self.servers.postgres_url).await?;
            let statement = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
            anyhow::Ok(())
        });
        if let Err(error) = cleaned {
            eprintln!("the stream {STREAM} and the database {DATABASE} are left behind: {error:#}");
        }
        let _ = std::fs::remove_file(
            std::env::temp_dir().join(format!("sluicegate-bench-{}.csv", std::process::id())),
        );
    }
}

/// Holds a contender's process, and ends it when dropped.
struct Process(Child);

impl Process {
    /// Returns the largest resident memory in megabytes and the CPU time in seconds, of the process and of those that
    /// it has started.
    fn usage(&self) -> anyhow::Result<(f64, f64)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id()))?.flatten();
        let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")));
        let children: String = children.map(Result::unwrap_or_default).collect();
        let mut sum = usage_of(&self.0.id().to_string())?;
        for child in children.split_whitespace() {
            // It may have ended meanwhile.
            let (memory_mb, seconds) = usage_of(child).unwrap_or_default();
            sum = (sum.0 + memory_mb, sum.1 + seconds);
        }
        Ok(sum)
    }

    fn terminate(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "a contender ended with {status}");
        Ok(())
    }
}

fn usage_of(pid: &str) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory_kb: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmHWM in /proc")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // User and system time are the 12th and 13th fields after the name, in ticks of 10 ms.
    let (_, after_name) = stat.rsplit_once(')').context("no name in /proc")?;
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok((memory_kb / 1024.0, ticks / 100.0))
}

/// Returns for how long all processors together have been used since the machine was started.
fn machine_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("no sum of processors in /proc/stat")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [user, nice, system, _idle, _waiting, interrupts, soft_interrupts, ..] = ticks[..] else {
        bail!("too few times in /proc/stat");
    };
    Ok((user + nice + system + interrupts + soft_interrupts) / 100.0)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when the process has ended already, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Finds an address of this machine that nobody listens at.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Converts a count, exactly below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
fn count(number: usize) -> f64 {
    number as f64
}
