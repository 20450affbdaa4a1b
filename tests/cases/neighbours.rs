//! Twenty tenants in one process, one of them hostile in each way in turn: the others do not suffer.

use std::fs;
use std::time::{Duration, Instant};

use chrono::Utc;
use sluicegate::batch::Digest;
use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Scene, Service, Stream, until};

/// Besides the hostile one.
const NEIGHBOURS: usize = 19;
/// Of all neighbours together, in a measurement.
const ROUNDS: usize = 40;
/// Between two rounds, in each of which every neighbour gets an event.
const PAUSE: Duration = Duration::from_millis(50);
/// What a neighbour may wait longer than twice as long as without the hostile one:
/// other tests run on the same cores. By itself the test prints 6 ms alone, 8 to 12 ms beside.
const MARGIN_MS: f64 = 500.0;

struct House {
    scene: Scene,
    hostile: Stream,
    neighbours: Vec<Stream>,
}

impl House {
    fn new() -> Self {
        let scene = Scene::new();
        let hostile = scene.stream.sibling("hostile");
        let neighbours: Vec<Stream> =
            (0..NEIGHBOURS).map(|i| scene.stream.sibling(&format!("n{i}"))).collect();
        let mut file = format!(
            "partial_batch_delay_ms = 0\n\
             [tenants.hostile]\nstream_name = \"{}\"\nguest = {:?}\nguest_time_limit_ms = 200\nguest_memory_bytes = 33554432\n",
            hostile.name,
            scene.folder().join("hostile.wasm").display().to_string()
        );
        for (i, stream) in neighbours.iter().enumerate() {
            file += &format!("[tenants.n{i}]\nstream_name = \"{}\"\nevents_table = \"seen\"\n", stream.name);
        }
        fs::write(scene.folder().join("sluicegate.toml"), file).unwrap();
        fs::write(scene.folder().join("hostile.wasm"), guests::DEFAULT).unwrap();
        // The form that is wanted, and a column that tells when a row was written.
        scene.database.execute(
            "CREATE TABLE seen (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
                 user_id TEXT NOT NULL, properties JSONB, written TIMESTAMPTZ DEFAULT clock_timestamp(),
                 PRIMARY KEY (event_id, time))",
        );
        Self { scene, hostile, neighbours }
    }

    /// Gives the tenant this guest, and a few hundred entries that make it misbehave.
    fn provoke(&self, service: &Service, guest: &str) {
        let new = self.scene.folder().join("new.wasm");
        fs::copy(guests::hostile(guest), &new).unwrap();
        let to = format!("to={}", Digest::of(&fs::read(&new).unwrap()));
        fs::rename(&new, self.scene.folder().join("hostile.wasm")).unwrap();
        service.until_logged(&["tenant=hostile", "new guest loaded", &to]);
        self.hostile.add_all(&vec![provoking(&Event::new(), None); 300]);
    }

    /// Sends events to all neighbours at a steady pace, waits until they have
    /// all arrived, and gives the 50th and the 99th percentile of the time from XADD to the row, in ms.
    fn measure(&self, what: &str) -> [f64; 2] {
        let (first, begun) = (Utc::now(), Instant::now());
        for round in 0..ROUNDS {
            for stream in &self.neighbours {
                stream.add(&Event { time: Utc::now(), ..Event::new() }.data());
            }
            let next = PAUSE * u32::try_from(round + 1).unwrap();
            std::thread::sleep(next.saturating_sub(begun.elapsed())); // the pace is what is simulated
        }
        let count = i64::try_from(ROUNDS * NEIGHBOURS).unwrap();
        until(&format!("all events of the neighbours, {what}"), || {
            let sql = format!("SELECT count(*) FROM seen WHERE time >= '{}'", first.to_rfc3339());
            match self.scene.database.try_value::<i64>(&sql)? {
                found if found == count => Ok(()),
                found => Err(format!("{found} of {count}")),
            }
        });
        [0.5, 0.99].map(|part| {
            self.scene.database.value(&format!(
                "SELECT percentile_cont({part}) WITHIN GROUP (ORDER BY extract(epoch FROM written - time)::float8 * 1000)
                 FROM seen WHERE time >= '{}'",
                first.to_rfc3339()
            ))
        })
    }
}

#[test]
fn a_hostile_tenant_does_not_slow_the_others_down() {
    let house = House::new();
    let service = house.scene.service().unset("STREAM_NAME").start_unready();
    until("all tenants to run", || match service.log().matches("running redis=").count() {
        20 => Ok(()),
        found => Err(format!("{found} run")),
    });
    let [_, _] = house.measure("to warm up");
    let [median, alone] = house.measure("alone");
    eprintln!("alone: median {median:.1} ms, p99 {alone:.1} ms");
    let ways = [
        "endless_loop",
        "memory_by_steps",
        "deep_recursion",
        "panic",
        "many_lines",
        "huge_rejection",
        "too_few_verdicts",
        "many_rows",
        "same_id",
    ];
    for way in ways {
        house.provoke(&service, way);
        let [median, beside] = house.measure(way);
        eprintln!("beside `{way}`: median {median:.1} ms, p99 {beside:.1} ms");
        assert!(beside <= 2.0 * alone + MARGIN_MS, "beside `{way}`: p99 {beside} ms, alone {alone} ms");
    }
    service.stop();
}
