use serde_json::json;

use super::*;
use crate::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Receipt,
    probe::{Kind, Probe},
    service::Service,
    time::{Slot, Timestamp},
};

const LONG: Duration = Duration::from_secs(60);

fn delivery(id: u64) -> Delivery {
    let settings = serde_json::from_value(json!({"name": "shop", "url": "test://shop", "interval": "60s"}));
    let (id, now) = (ServiceId::new(id).expect("an id"), Timestamp::from_millis(0));
    let service = Service::registered(id, settings.expect("settings"), Revision(1), Epoch(1), now);
    let probe = Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled);
    Delivery { probe, delivery: 1, receipt: Receipt { stream: 0, id: (0, 0) } }
}

fn number(delivery: &Delivery) -> u64 {
    delivery.probe.id.service.get()
}

fn lanes(per_host: usize, concurrency: usize) -> Arc<Lanes> {
    Lanes::new(NonZeroUsize::new(concurrency).expect("some"), NonZeroUsize::new(per_host).expect("some"))
}

fn begins(lanes: &Arc<Lanes>, host: &str, id: u64) -> Place {
    match lanes.admit(Some(host), delivery(id), LONG) {
        Admission::Begins(_, place) => place,
        other => panic!("{other:?}"),
    }
}

fn is_crowded(lanes: &Arc<Lanes>, host: &str, id: u64) -> bool {
    matches!(lanes.admit(Some(host), delivery(id), LONG), Admission::Crowded(_))
}

#[tokio::test(start_paused = true)]
async fn a_host_has_its_places_and_a_line_that_is_served_in_order() {
    let lanes = lanes(2, 10);
    let (first, second) = (begins(&lanes, "a", 1), begins(&lanes, "a", 2));
    for id in [3, 4] {
        assert!(matches!(lanes.admit(Some("a"), delivery(id), LONG), Admission::Waits));
    }
    assert!(is_crowded(&lanes, "a", 5), "its line is as long as it has places");
    let (next, second) = second.hand_on().map(|(next, place)| (number(&next), place)).expect("one waits");
    assert_eq!(next, 3);
    let (next, first) = first.hand_on().map(|(next, place)| (number(&next), place)).expect("one waits");
    assert_eq!(next, 4);
    assert!(first.hand_on().is_none() && second.hand_on().is_none());
    assert!(lanes.inner().hosts.is_empty(), "an idle host is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_crowded_host_takes_nothing_from_another_nor_from_those_without_a_host() {
    let lanes = lanes(1, 10);
    let _a = begins(&lanes, "a", 1);
    assert!(matches!(lanes.admit(Some("a"), delivery(2), LONG), Admission::Waits));
    let _b = begins(&lanes, "b", 3);
    for id in 4..9 {
        assert!(matches!(lanes.admit(None, delivery(id), LONG), Admission::Begins(..)));
    }
}

#[tokio::test(start_paused = true)]
async fn all_lines_together_are_bounded() {
    let lanes = lanes(2, 4);
    let _places: Vec<_> = ["a", "a", "b", "c"].iter().map(|host| begins(&lanes, host, 1)).collect();
    for host in ["a", "a", "b", "b"] {
        assert!(matches!(lanes.admit(Some(host), delivery(2), LONG), Admission::Waits));
    }
    assert!(is_crowded(&lanes, "c", 3));
}

#[tokio::test(start_paused = true)]
async fn the_fuller_the_worker_the_fewer_places_has_a_host_so_that_some_are_left() {
    let lanes = lanes(25, 100);
    let mut places = Vec::new();
    let mut alone = 0;
    for host in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        for id in 1..=30 {
            if let Admission::Begins(_, place) = lanes.admit(Some(host), delivery(id), LONG) {
                places.push(place);
            }
        }
        alone = alone.max(lanes.inner().hosts[host].under_way);
    }
    assert_eq!(alone, 25, "the first found nobody");
    let under_way = lanes.inner().under_way;
    assert!((80..97).contains(&under_way), "{under_way} of 100");
    // Those that end are followed by others of their host only as far as that has places still.
    let first: Vec<_> = places.drain(..25).collect();
    let followed = first.into_iter().filter_map(Place::hand_on).count();
    assert!((1..20).contains(&followed), "{followed}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_places_grew_lets_those_in_line_go_first() {
    let lanes = lanes(4, 8);
    let others: Vec<_> = ["b", "c", "d", "e"].iter().map(|host| begins(&lanes, host, 9)).collect();
    let _a: Vec<_> = (1..=2).map(|id| begins(&lanes, "a", id)).collect();
    for id in [3, 4] {
        assert!(matches!(lanes.admit(Some("a"), delivery(id), LONG), Admission::Waits));
    }
    others.into_iter().for_each(|place| assert!(place.hand_on().is_none()));
    match lanes.admit(Some("a"), delivery(5), LONG) {
        Admission::Begins(first, _place) => assert_eq!(number(&first), 3),
        other => panic!("{other:?}"),
    }
    assert_eq!(lanes.inner().hosts["a"].line.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_leaves_as_crowded_and_at_its_start_by_as_expired() {
    let lanes = lanes(2, 10);
    let _places = [begins(&lanes, "a", 1), begins(&lanes, "a", 2)];
    let begin = Instant::now();
    assert!(matches!(lanes.admit(Some("a"), delivery(3), LONG), Admission::Waits));
    assert!(matches!(lanes.admit(Some("a"), delivery(4), Duration::from_secs(1)), Admission::Waits));
    for (id, reason, seconds) in [(4, IndeterminateReason::Expired, 1), (3, IndeterminateReason::Crowded, 2)] {
        let late = lanes.late().await;
        let told: Vec<_> = late.iter().map(|(delivery, reason)| (number(delivery), *reason)).collect();
        assert_eq!((told, begin.elapsed().as_secs()), (vec![(id, reason)], seconds));
    }
    assert!(lanes.inner().hosts["a"].line.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_nobody_has_to_leave_is_noticed() {
    let lanes = lanes(1, 10);
    let _place = begins(&lanes, "a", 1);
    let waiting = tokio::spawn({
        let lanes = Arc::clone(&lanes);
        async move { lanes.late().await.len() }
    });
    tokio::task::yield_now().await;
    assert!(matches!(lanes.admit(Some("a"), delivery(2), LONG), Admission::Waits));
    assert_eq!(waiting.await.expect("no panic"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_dropped_is_free_again() {
    let lanes = lanes(1, 10);
    drop(begins(&lanes, "a", 1));
    assert!(lanes.inner().hosts.is_empty());
    begins(&lanes, "a", 2).hand_on();
}
