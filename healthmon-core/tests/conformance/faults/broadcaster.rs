use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::{
    conformance::{
        TestTime,
        broadcaster::{BroadcasterFixture, BroadcasterSetup},
    },
    ports::{Broadcaster, Hint, Hints},
};
use tokio::sync::broadcast;

use crate::memory_broadcaster;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Blocks,
    LosesInSilence,
    TellsTwice,
    TellsInPairs,
    TellsOneOnly,
}

const CAPACITY: usize = 256;

/// A broadcaster with one fault.
struct Faulty {
    sender: broadcast::Sender<Hint>,
    fault: Fault,
    held: Mutex<Option<Hint>>,
}

async fn with(fault: Fault, _: BroadcasterSetup) -> BroadcasterFixture {
    let faulty = Faulty { sender: broadcast::Sender::new(CAPACITY), fault, held: Mutex::default() };
    BroadcasterFixture::in_process(Arc::new(faulty), TestTime::paused())
}

impl Broadcaster for Faulty {
    fn publish(&self, hint: Hint) {
        let full = || self.sender.receiver_count() > 0 && self.sender.len() >= CAPACITY;
        let send = |hint| drop(self.sender.send(hint));
        match self.fault {
            Fault::Blocks => {
                while full() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Fault::LosesInSilence if full() => return,
            Fault::TellsTwice => send(hint.clone()),
            Fault::TellsInPairs => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                match held.take() {
                    None => return *held = Some(hint),
                    Some(before) => {
                        send(hint);
                        return send(before);
                    }
                }
            }
            _ => {}
        }
        send(hint);
    }

    fn subscribe(&self) -> Hints {
        // The first subscriber alone is listened to.
        let deaf = self.fault == Fault::TellsOneOnly && self.sender.receiver_count() > 0;
        Hints::new(if deaf { broadcast::Sender::new(1).subscribe() } else { self.sender.subscribe() })
    }
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { broadcaster {
    a_broadcaster_that_blocks: "broadcaster that waits for a subscriber that does not read" =>
        publishing_never_waits_for_a_subscriber_that_does_not_read, faulty!(Blocks), memory_broadcaster;
    a_broadcaster_that_loses_in_silence: "broadcaster that loses hints without a word" =>
        a_subscriber_that_does_not_read_is_told_that_hints_were_lost, faulty!(LosesInSilence), memory_broadcaster;
    a_broadcaster_that_tells_twice: "broadcaster that tells everything twice" =>
        hints_come_in_the_order_they_were_published_and_at_most_once, faulty!(TellsTwice), memory_broadcaster;
    a_broadcaster_that_reorders: "broadcaster that changes the order" =>
        hints_come_in_the_order_they_were_published_and_at_most_once, faulty!(TellsInPairs), memory_broadcaster;
    a_broadcaster_for_one_subscriber: "broadcaster that tells one subscriber only" =>
        every_subscriber_hears_for_itself, faulty!(TellsOneOnly), memory_broadcaster;
} }
