use std::time::Duration;

use serde_json::json;

use super::*;
use crate::id::Revision;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn service(id: u64, interval: &str, edge: Option<&str>) -> Service {
    let settings = json!({
        "name": "shop", "url": "test://shop", "interval": interval, "edge_interval": edge,
        "policy": {"failure_threshold": 4}, "regions": ["a", "b"],
    });
    let settings = serde_json::from_value(settings).expect("settings");
    Service::registered(ServiceId::new(id).expect("an id"), settings, Revision(1), Epoch(1), START)
}

fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

fn heard(slot: Timestamp, regions: &[&str]) -> Heard {
    Heard { regions: regions.iter().map(|name| region(name)).collect(), slot: Slot::at(slot), epoch: Epoch(1) }
}

/// The service's slot at or before the start, and the one after it.
fn slots(service: &Service) -> (Timestamp, Timestamp) {
    let slot = slot_at(service.id, service.settings.interval, START);
    (slot.time(), slot.after(service.settings.interval.get()).time())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_undecided_service_is_probed_an_edge_interval_after_the_slot_that_asked() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", Some("5s")));
    let (slot, _) = slots(&service);
    timer.undecided(&service, heard(slot, &["a"]), slot.after(SECOND));
    assert_eq!(timer.next(), Some(slot.after(SECOND * 5)));
    assert_eq!(timer.take_due(slot.after(SECOND * 4), 9), []);
    let due = DueEdge { service: service.id, epoch: Epoch(1), regions: vec![region("a")] };
    assert_eq!(timer.take_due(slot.after(SECOND * 5), 9), [due]);
    assert_eq!((timer.take_due(slot.after(SECOND * 9), 9), timer.next()), (vec![], None), "once");
}

#[test]
fn a_result_that_took_longer_than_the_edge_interval_asks_for_one_at_once() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", Some("5s")));
    let (slot, _) = slots(&service);
    timer.undecided(&service, heard(slot, &["a"]), slot.after(SECOND * 12));
    assert_eq!(timer.next(), Some(slot.after(SECOND * 12)));
}

#[test]
fn no_edge_probe_comes_where_the_next_slot_comes_first() {
    for (edge, taken_at) in [("10s", SECOND * 10), ("9s", SECOND * 11)] {
        let (mut timer, service) = (EdgeTimer::new(10), service(1, "10s", Some(edge)));
        let (slot, _) = slots(&service);
        timer.undecided(&service, heard(slot, &["a"]), slot.after(SECOND));
        assert_eq!(timer.take_due(slot.after(taken_at), 9), [], "{edge}");
    }
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "10s", Some("5s")));
    let (slot, next) = slots(&service);
    timer.undecided(&service, heard(slot, &["a"]), next);
    assert_eq!(timer.next(), None, "it was heard of too late");
}

#[test]
fn a_service_without_an_edge_interval_gets_none() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", None));
    timer.undecided(&service, heard(slots(&service).0, &["a"]), START);
    assert_eq!((timer.next(), timer.rows.len()), (None, 0));
}

#[test]
fn what_one_region_decides_leaves_the_other_region_s_question_open() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", Some("5s")));
    let (slot, _) = slots(&service);
    timer.undecided(&service, heard(slot, &["a", "b"]), slot);
    timer.decided(service.id, &[region("b")]);
    assert_eq!(timer.take_due(slot.after(SECOND * 5), 9)[0].regions, [region("a")]);
    timer.undecided(&service, heard(slot.after(SECOND * 5), &["a"]), slot.after(SECOND * 5));
    timer.decided(service.id, &[region("a")]);
    assert_eq!(timer.next(), None);
}

#[test]
fn a_row_is_no_longer_than_what_decides_the_latch_and_a_change_begins_another() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", Some("1s")));
    let (slot, _) = slots(&service);
    let mut taken = 0;
    let mut ask = |timer: &mut EdgeTimer, second: u32| {
        let at = slot.after(SECOND * second);
        timer.undecided(&service, heard(at, &["a"]), at);
        taken += timer.take_due(at.after(SECOND), 9).len();
        taken
    };
    for second in 0..20 {
        assert_eq!(ask(&mut timer, second), 4.min(second as usize + 1));
    }
    timer.forget(service.id);
    assert_eq!(ask(&mut timer, 20), 5, "its status changed");
}

#[test]
fn a_service_that_flaps_without_end_gets_one_row_until_it_is_quiet() {
    let (mut timer, service) = (EdgeTimer::new(10), service(1, "60s", Some("5s")));
    let (slot, _) = slots(&service);
    let mut taken = 0;
    let mut flap = |timer: &mut EdgeTimer, minute: u32| {
        let at = slot.after(SECOND * 60 * minute);
        timer.undecided(&service, heard(at, &["a"]), at);
        taken += timer.take_due(at.after(SECOND * 5), 9).len();
        timer.decided(service.id, &[region("a")]);
        taken
    };
    let last = (0..50).map(|minute| flap(&mut timer, minute * 2)).last();
    assert_eq!(last, Some(4));
    assert_eq!(flap(&mut timer, 98 + 3), 5, "three intervals without a hint");
}

#[test]
fn one_that_finds_the_timer_full_goes_without_until_others_are_forgotten() {
    let mut timer = EdgeTimer::new(2);
    let services: Vec<_> = (1..=3).map(|id| service(id, "60s", Some("5s"))).collect();
    for service in &services {
        let slot = slots(service).0;
        timer.undecided(service, heard(slot, &["a"]), slot);
    }
    let due: Vec<_> = timer.take_due(START.after(SECOND * 60), 9).iter().map(|due| due.service).collect();
    assert!(!due.contains(&services[2].id) && timer.rows.len() == 2);
    let later = slots(&services[2]).0.after(SECOND * 600);
    timer.undecided(&services[2], heard(later, &["a"]), later);
    assert_eq!(timer.next(), Some(later.after(SECOND * 5)), "the others had been quiet for long");
}

#[cfg(feature = "laws")]
mod properties {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Debug, Clone)]
    enum Event {
        Undecided(u64, &'static str),
        Decided(u64, &'static str),
        Changed(u64),
        Passed(u32),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let (id, at) = (1_u64..=4, prop_oneof![Just("a"), Just("b")]);
        let event = prop_oneof![
            6 => (id.clone(), at.clone()).prop_map(|(id, at)| Event::Undecided(id, at)),
            2 => (id.clone(), at).prop_map(|(id, at)| Event::Decided(id, at)),
            1 => id.prop_map(Event::Changed),
            6 => (100_u32..30_000).prop_map(Event::Passed),
        ];
        vec(event, 1..300)
    }

    proptest! {
        /// Bounded in services and in a row, never for what is decided, never at or after the next slot.
        #[test]
        fn whatever_comes_edge_probes_are_few_and_only_for_what_is_undecided(events in events(), limit in 1_usize..4) {
            let mut timer = EdgeTimer::new(limit);
            let mut now = START;
            let mut open: HashMap<u64, Vec<Region>> = HashMap::new();
            let mut row: HashMap<u64, (usize, Timestamp)> = HashMap::new();
            for event in events {
                match event {
                    Event::Undecided(id, at) => {
                        timer.undecided(&service(id, "20s", Some("3s")), heard(now, &[at]), now);
                        open.entry(id).or_default().push(region(at));
                        let (count, heard) = row.entry(id).or_insert((0, now));
                        if now.since(*heard) >= SECOND * 60 {
                            *count = 0;
                        }
                        *heard = now;
                    }
                    Event::Decided(id, at) => {
                        timer.decided(ServiceId::new(id).unwrap(), &[region(at)]);
                        open.entry(id).or_default().retain(|open| *open != region(at));
                    }
                    Event::Changed(id) => {
                        timer.forget(ServiceId::new(id).unwrap());
                        open.remove(&id);
                        row.remove(&id);
                    }
                    Event::Passed(millis) => {
                        now = now.after(Duration::from_millis(millis.into()));
                        for due in timer.take_due(now, 100) {
                            let id = due.service.get();
                            let service = service(id, "20s", Some("3s"));
                            let (count, heard) = row.get_mut(&id).expect("it was undecided");
                            *count += 1;
                            prop_assert!(*count <= 4, "{count} in a row");
                            prop_assert!(!due.regions.is_empty());
                            prop_assert!(due.regions.iter().all(|region| open[&id].contains(region)));
                            let slot = slot_at(service.id, service.settings.interval, *heard);
                            prop_assert!(now < slot.after(SECOND * 20).time(), "its next slot came first");
                        }
                        prop_assert!(timer.next().is_none_or(|next| next > now));
                    }
                }
                prop_assert!(timer.rows.len() <= limit && timer.due.len() <= timer.rows.len());
            }
        }
    }
}
