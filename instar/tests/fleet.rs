//! The manifests in docs/examples: they are what they claim to be, and every command line in them is one that instar takes.

#[path = "common/lines.rs"]
mod lines;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lines::{must_parse, of_instar, words};
use serde_json::Value;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").join("docs/examples")
}

fn text(name: &str) -> String {
    fs::read_to_string(examples().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap_or_else(|| panic!("a list, not {value}"));
    list.iter().map(|word| word.as_str().unwrap_or_else(|| panic!("a string, not {word}")).to_owned()).collect()
}

/// Every object in a document.
fn objects(value: &Value) -> Vec<&Value> {
    let below: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    };
    value.is_object().then_some(value).into_iter().chain(below.into_iter().flat_map(objects)).collect()
}

/// What runs: the command that changes something comes last.
fn check_lines(found: &[Vec<String>], place: &str) {
    for line in found {
        must_parse(line, place);
    }
    let commands: Vec<&str> = found.iter().map(|line| line[1].as_str()).collect();
    assert_eq!(commands, ["doctor", "commit"], "{place}");
    assert!(found[1].iter().any(|word| word == "json"), "{place}: a fleet reads results by program");
}

#[test]
fn the_kubernetes_job_asks_for_the_device_and_runs_what_instar_takes() {
    let job = yaml("kubernetes-job.yaml");
    assert_eq!((&job["apiVersion"], &job["kind"]), (&Value::from("batch/v1"), &Value::from("Job")));
    let pod = &job["spec"]["template"]["spec"];
    let containers: Vec<&Value> =
        ["initContainers", "containers"].iter().flat_map(|list| pod[list].as_array().expect("containers")).collect();
    let mut found = Vec::new();
    for container in containers {
        assert_eq!(container["resources"]["limits"]["devices.kubevirt.io/kvm"], "1", "{}", container["name"]);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{}", container["name"]);
        found.extend(of_instar(&[strings(&container["command"]), strings(&container["args"])].concat()));
    }
    check_lines(&found, "kubernetes-job.yaml");
    // What is instar's own refusal must not be tried again.
    let rules = &job["spec"]["podFailurePolicy"]["rules"][0];
    assert_eq!((&rules["action"], &rules["onExitCodes"]["values"][0]), (&Value::from("FailJob"), &Value::from(1)));
}

#[test]
fn the_ansible_play_runs_what_instar_takes() {
    let play = yaml("ansible-commit.yaml");
    let tasks = objects(&play).into_iter().filter(|task| !task["argv"].is_null());
    let found: Vec<Vec<String>> = tasks.map(|task| strings(&task["argv"])).collect();
    check_lines(&found, "ansible-commit.yaml");
}

#[test]
fn the_systemd_unit_is_sound_and_runs_what_instar_takes() {
    let name = "instar-commit@.service";
    let unit = text(name);
    let started = unit.lines().filter_map(|line| line.split_once('=').filter(|(key, _)| key.starts_with("ExecStart")));
    let found: Vec<Vec<String>> = started.filter_map(|(_, line)| of_instar(&words(line))).collect();
    check_lines(&found, name);
    assert!(unit.contains("\nDeviceAllow=/dev/kvm rw\n"));

    // A copy that names a program which is there, for systemd looks for it.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join(name);
    fs::write(&copy, unit.replace("/usr/bin/instar", "/bin/true")).expect("written");
    match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&copy).output() {
        Err(_) => eprintln!("{name}: not shown to systemd-analyze, which is not installed"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains(name), "{said}");
        }
    }
}

#[test]
fn the_container_file_shows_lines_that_instar_takes() {
    let file = text("Containerfile");
    let shown = file.lines().filter(|line| line.starts_with("#   podman run"));
    let found: Vec<Vec<String>> = shown.filter_map(|line| of_instar(&words(line.trim_start_matches("#   ")))).collect();
    assert_eq!(found.len(), 2);
    found.iter().for_each(|line| must_parse(line, "Containerfile"));
    assert!(file.contains("ENTRYPOINT [\"/usr/bin/instar\"]"));
}
