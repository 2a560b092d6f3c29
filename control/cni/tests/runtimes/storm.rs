//! Containers come and go in parallel while the daemon and the plugin are killed.

use std::{
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use shunt_control_lab::{command::run, error::Result, tools, topology::Lab};

use crate::{
    address,
    engine::{Engine, PORT},
    leftovers,
    machine::Machine,
};

/// Threads that start and remove containers.
const THREADS: u32 = 3;
/// Kills of the daemon, and the time before and after each of them.
const DAEMON_KILLS: u32 = 2;
const CALM: Duration = Duration::from_millis(1500);
/// Time between two looks for a plugin to kill.
const PLUGIN_KILLS: Duration = Duration::from_millis(70);

#[derive(Debug, Default)]
struct Tally {
    is_over: AtomicBool,
    succeeded: AtomicU32,
    killed: AtomicU32,
    errors: Mutex<Vec<String>>,
}

/// Afterwards everything works again, and nothing is left.
pub fn storm(lab: &mut Lab, machine: &Machine, engine: &dyn Engine) -> Result<()> {
    let tally = Tally::default();
    thread::scope(|scope| {
        let tally = &tally;
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || come_and_go(tally, engine, thread))));
        scope.spawn(move || kill_plugins(tally, machine));
        let outcome = kill_daemons(lab);
        tally.is_over.store(true, Relaxed);
        outcome
    })?;
    let (succeeded, killed) = (tally.succeeded.into_inner(), tally.killed.into_inner());
    let errors = tally.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{succeeded} containers came and went, {} failed; {killed} plugins were killed", errors.len());
    assert!(killed > 0 && !errors.is_empty(), "nothing was disturbed: the storm was none");
    assert!(succeeded > 0, "nothing got through:\n{}", errors.join("\n"));

    engine.sweep()?;
    // With the next container go the ports of those whose DEL came while the daemon was down.
    engine.start("after", None)?;
    let answer = tools::curl(&lab.node("node-a")?.namespace, &format!("http://{}:{PORT}/", address(engine, "after")?))?;
    assert_eq!(answer.trim(), "after");
    engine.remove("after")?;
    assert_eq!(leftovers(lab, machine)?, Vec::<String>::new());
    Ok(())
}

fn come_and_go(tally: &Tally, engine: &dyn Engine, thread: u32) {
    for round in 0.. {
        if tally.is_over.load(Relaxed) {
            break;
        }
        let name = format!("storm-{thread}-{round}");
        // When it fails the runtime may not even be able to clean up now: that is for the end.
        match engine.start(&name, None).and_then(|()| engine.remove(&name)) {
            Ok(()) => drop(tally.succeeded.fetch_add(1, Relaxed)),
            Err(error) => tally.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string()),
        }
    }
}

/// Only those that ADD, and every other one: that a runtime calls DEL again after its end is not for the plugin to see to.
fn kill_plugins(tally: &Tally, machine: &Machine) {
    while !tally.is_over.load(Relaxed) {
        thread::sleep(PLUGIN_KILLS);
        let plugins = machine.running_plugins();
        if let Some((id, _)) = plugins.iter().find(|(id, command)| command == "ADD" && id % 2 == 0) {
            // It may have ended in between.
            let is_killed = run(Command::new("kill").args(["-9", &id.to_string()])).is_ok();
            tally.killed.fetch_add(u32::from(is_killed), Relaxed);
        }
    }
}

fn kill_daemons(lab: &mut Lab) -> Result<()> {
    for _ in 0..DAEMON_KILLS {
        thread::sleep(CALM);
        let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
        shunt.kill()?;
        shunt.launch(namespace)?;
    }
    thread::sleep(CALM);
    Ok(())
}
