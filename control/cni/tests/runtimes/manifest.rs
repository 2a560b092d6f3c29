//! `configs/kubernetes/shunt.yaml`: as much of Kubernetes' DaemonSet (apps/v1) as it uses. A field that is not here is refused:
//! whoever adds one says what it means to a runtime.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The manifest.
const TEXT: &str = include_str!("../../../../configs/kubernetes/shunt.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DaemonSet {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    pub selector: Selector,
    pub update_strategy: UpdateStrategy,
    pub template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpdateStrategy {
    pub r#type: String,
    pub rolling_update: RollingUpdate,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RollingUpdate {
    pub max_unavailable: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSpec {
    pub host_network: bool,
    pub dns_policy: String,
    pub automount_service_account_token: bool,
    pub priority_class_name: String,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub termination_grace_period_seconds: u32,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    pub operator: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: String,
    pub command: Vec<String>,
    pub security_context: SecurityContext,
    pub readiness_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    pub volume_mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecurityContext {
    pub allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub capabilities: Capabilities,
    pub seccomp_profile: Option<SeccompProfile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub drop: Vec<String>,
    #[serde(default)]
    pub add: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompProfile {
    pub r#type: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    pub exec: Exec,
    #[serde(default)]
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub timeout_seconds: u32,
    #[serde(default = "three")]
    pub failure_threshold: u32,
}

/// Kubernetes' default.
fn three() -> u32 {
    3
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    pub command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub host_path: HostPath,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    pub path: String,
    pub r#type: String,
}

/// Reads the manifest, and checks what the API server would and what no runtime can.
pub fn read() -> DaemonSet {
    let set: DaemonSet = serde_saphyr::from_str(TEXT).expect("the manifest is a DaemonSet as told here");
    assert_eq!((set.api_version.as_str(), set.kind.as_str()), ("apps/v1", "DaemonSet"));
    assert_eq!((set.metadata.name.as_deref(), set.metadata.namespace.as_deref()), (Some("shunt"), Some("kube-system")));
    let (spec, pod) = (&set.spec, &set.spec.template.spec);
    assert!(!spec.selector.match_labels.is_empty(), "it selects something");
    assert_eq!(spec.selector.match_labels, spec.template.metadata.labels, "it selects its own pods");
    assert_eq!(spec.selector.match_labels, set.metadata.labels);
    // One node after the other, on all of them, whatever their taints, and never driven out by other pods.
    assert_eq!(
        (spec.update_strategy.r#type.as_str(), spec.update_strategy.rolling_update.max_unavailable),
        ("RollingUpdate", 1)
    );
    assert_eq!(pod.tolerations.iter().map(|toleration| toleration.operator.as_str()).collect::<Vec<_>>(), ["Exists"]);
    assert_eq!(pod.node_selector, BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]));
    assert_eq!(pod.priority_class_name, "system-node-critical");
    // The node's name service, as pods' own is reached by Shunt.
    assert_eq!(pod.dns_policy, "Default");
    assert!(!pod.automount_service_account_token, "it asks nothing of the API server");
    let containers = || pod.init_containers.iter().chain(&pod.containers);
    for container in containers() {
        assert_eq!(container.image, concat!("shunt:", env!("CARGO_PKG_VERSION")), "{}", container.name);
        for mount in &container.volume_mounts {
            assert!(pod.volumes.iter().any(|volume| volume.name == mount.name), "no volume {}", mount.name);
        }
    }
    for container in &pod.containers {
        let (Some(ready), Some(alive)) = (&container.readiness_probe, &container.liveness_probe) else {
            panic!("{} has no probes", container.name);
        };
        assert!(alive.patience() >= 60 && ready.patience() < alive.patience(), "a restart is the last resort");
    }
    for volume in &pod.volumes {
        let mut mounts = containers().flat_map(|container| &container.volume_mounts);
        assert!(mounts.any(|mount| mount.name == volume.name), "nobody mounts {}", volume.name);
    }
    set
}

impl Probe {
    /// For how long it must fail until something comes of it, in seconds.
    fn patience(&self) -> u32 {
        assert!(self.timeout_seconds <= self.period_seconds, "one ends before the next one");
        self.initial_delay_seconds + self.period_seconds * self.failure_threshold
    }
}

impl PodSpec {
    /// The arguments with which podman runs a container as the kubelet would have it run.
    pub fn podman(&self, container: &Container) -> Vec<String> {
        let security = &container.security_context;
        assert!(self.host_network && security.read_only_root_filesystem && !security.allow_privilege_escalation);
        let mut words: Vec<String> =
            ["--network", "host", "--read-only", "--read-only-tmpfs=false"].map(str::to_owned).into();
        words.extend(["--security-opt".to_owned(), "no-new-privileges".to_owned()]);
        // Kubernetes' own default is Unconfined, podman's is not.
        let profile = security.seccomp_profile.as_ref().map_or("Unconfined", |profile| profile.r#type.as_str());
        assert_eq!(profile, "Unconfined", "{}", container.name);
        words.extend(["--security-opt".to_owned(), "seccomp=unconfined".to_owned()]);
        for (option, names) in [("--cap-drop", &security.capabilities.drop), ("--cap-add", &security.capabilities.add)]
        {
            words.extend(names.iter().map(|name| format!("{option}={name}")));
        }
        for mount in &container.volume_mounts {
            let volume = self.volumes.iter().find(|volume| volume.name == mount.name).expect("checked when read");
            let mode = if mount.read_only { ":ro" } else { "" };
            words.push(format!("--volume={}:{}{mode}", volume.host_path.path, mount.mount_path));
        }
        words.push(format!("--entrypoint={}", serde_json::to_string(&container.command).expect("words")));
        words.push(container.image.clone());
        words
    }
}
