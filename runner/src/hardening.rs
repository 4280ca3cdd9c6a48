//! What this process gives up before it runs strangers' code: privileges, capabilities, core dumps; and for some of its threads
//! their place beside the network's.
//!
//! The sandbox is what holds guests; this is for the day it does not. A systemd unit does more (`examples/wasmqtt.service`).

use std::sync::OnceLock;

use rustix::io;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getpriority_process, set_dumpable_behavior,
    setpriority_process, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::debug;

/// How much nicer than the network's thread the guests' are, and the journal's.
const STEP_BACK: i32 = 4;

/// Gives up what no runner needs. Before any thread is started: capabilities are each thread's own. A port below 1024
/// is still to be listened on with `low_port`.
pub fn give_up_privileges(low_port: bool) {
    let keep = match low_port {
        true => CapabilitySet::NET_BIND_SERVICE,
        false => CapabilitySet::empty(),
    };
    tell("no core dumps", no_cores());
    // What it starts cannot gain more either, by a setuid program for one.
    tell("no new privileges", set_no_new_privs(true));
    tell("no ambient capabilities", clear_ambient_capability_set());
    tell("no capabilities", drop_capabilities(keep));
}

/// Its memory, where passwords and tenants' inputs are, is neither dumped nor read by other processes of this user. Once
/// wasmtime is set up, which opens files below `/proc/self` that are closed to it after this.
pub fn hide_memory() {
    tell(
        "not dumpable",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    );
}

/// The calling thread makes room for the threads of the network when they wake, and does not break into their work when it
/// is woken itself: what a network's thread has read at one time then goes on as one batch. On an idle processor it changes
/// nothing.
pub fn step_back() {
    // What the process has: a thread inherits what the one that started it has stepped back to.
    static PROCESS: OnceLock<i32> = OnceLock::new();
    let Ok(own) = getpriority_process(None) else {
        return;
    };
    let process = *PROCESS.get_or_init(|| own);
    // Denied, there is only less order.
    let _ = setpriority_process(None, process + STEP_BACK);
}

fn no_cores() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
}

fn drop_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let have = capabilities(None)?;
    // Who may not shrink the bounding set has nothing that it would bound.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(keep).iter() {
            // One that this kernel does not know is not there.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: have.effective & keep,
            permitted: have.permitted & keep,
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn tell(what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        debug!(what, %error, "not hardened");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_back_once_whoever_started_it() {
        let own = getpriority_process(None).expect("a priority");
        let stepped = || {
            step_back();
            getpriority_process(None).expect("a priority")
        };
        let nested = move || {
            (
                stepped(),
                std::thread::spawn(stepped).join().expect("an end"),
            )
        };
        let seen = std::thread::spawn(nested).join().expect("an end");
        let back = (own + STEP_BACK).min(19);
        assert_eq!(seen, (back, back));
        assert_eq!(getpriority_process(None).expect("a priority"), own);
    }
}
