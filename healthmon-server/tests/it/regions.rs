//! From where services are probed, as settings and services say it.

use healthmon_core::id::Region;
use healthmon_server::{Config, config::ServerRole};
use serde_json::json;

use crate::support::{Server, Target, folder, until};

fn config(region: &str, regions: &[&str]) -> Config {
    let named = |name: &str| Region::new(name).unwrap();
    let regions = regions.iter().map(|name| named(name)).collect();
    Config { region: named(region), regions, ..Config::new("healthmon.db") }
}

fn names(regions: &healthmon_core::service::Regions) -> Vec<&str> {
    regions.iter().map(Region::as_str).collect()
}

#[test]
fn the_regions_that_are_given_are_all_there_are() {
    assert_eq!(names(&config("eu", &[]).known_regions().unwrap()), ["eu"], "none are: the process's own");
    let given = config("local", &["us", "eu"]);
    assert_eq!(names(&given.known_regions().unwrap()), ["eu", "us"], "its own is not added to them");
    assert_eq!(names(&given.usual_regions()), ["us"], "the first as it is written");
    assert_eq!(names(&config("eu", &["us", "eu"]).usual_regions()), ["eu"], "its own, if it is among them");
}

#[test]
fn regions_that_cannot_be_are_refused_at_the_start() {
    let twice = config("eu", &["eu", "eu"]).check().unwrap_err().to_string();
    assert_eq!(twice, "--regions must be a list of 1 to 16 different regions");
    let many: Vec<String> = (0..17).map(|n| format!("r{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(config("r1", &many).check().unwrap_err().to_string(), twice);
    let idle = config("local", &["eu", "us"]).check().unwrap_err().to_string();
    assert!(idle.starts_with("--region local is not among --regions"), "{idle}");
    let mut without_workers = config("local", &["eu", "us"]);
    without_workers.roles.remove(&ServerRole::Worker);
    let apart = without_workers.check().unwrap_err().to_string();
    assert!(apart.contains("--role leaves out worker"), "its region is no matter: {apart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_names_no_region_is_probed_from_where_the_server_stands() {
    let (folder, target) = (folder(), Target::start().await);
    let server =
        Server::with(&folder.path().join("db"), &["serve", "--region", "eu", "--regions", "us,eu", "--log", "warn"]);
    server.ready().await;
    let minimal = json!({"name": "a", "url": target.url, "interval": "1h"});
    let created = server.send("POST", "/api/v1/services", Some(minimal)).await;
    assert_eq!((created.status, &created.json["regions"]), (201, &json!(["eu"])), "{}", created.json);
    until("its first probe", async || (target.served() > 0).then_some(())).await;
    let path = created.header("location").to_owned();
    let moved = server.send("PATCH", &path, Some(json!({"regions": ["us"]}))).await;
    assert_eq!(moved.json["regions"], json!(["us"]));
    let back = server.send("PATCH", &path, Some(json!({"regions": null}))).await;
    assert_eq!(back.json["regions"], json!(["eu"]));
    let nowhere = json!({"name": "b", "url": target.url, "interval": "1h", "regions": ["local"]});
    let refused = server.send("POST", "/api/v1/services", Some(nowhere)).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["regions"]), "{}", refused.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_watches_from_where_the_server_stands() {
    let (folder, target) = (folder(), Target::start().await);
    let words = ["watch", &target.url, "--region", "eu"];
    let server = Server::with(&folder.path().join("db"), &words);
    server.ready().await;
    until("a probe", async || (target.served() > 0).then_some(())).await;
    assert_eq!(server.get("/api/v1/services").await.json["services"][0]["regions"], json!(["eu"]));
}
