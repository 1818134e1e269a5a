//! Security contexts: a container's own settings over its pod's, in CRI's terms.

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, NamespaceMode, SecurityProfile,
    SupplementalGroupsPolicy,
};
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile, SecurityContext};

use super::{Settings, sandbox};
use crate::pod;

const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
];
const MASKED_MORE: [&str; 3] = ["/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A CRI integer.
pub(crate) fn int64(value: i64) -> Int64Value {
    Int64Value { value }
}

/// Whether the container is privileged.
pub(crate) fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|s| s.privileged) == Some(true)
}

/// The pod's supplemental groups, fsGroup among them.
pub(crate) fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let Some(of_pod) = &pod::spec(pod).security_context else { return Vec::new() };
    of_pod.fs_group.iter().chain(pod::list(&of_pod.supplemental_groups)).copied().collect()
}

/// The user a container runs as, where spec names one.
fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|s| s.run_as_user);
    own.or_else(|| pod::spec(pod).security_context.as_ref()?.run_as_user)
}

/// Refuses root where `runAsNonRoot` is asked for. The error is shown under CreateContainerConfigError.
pub(crate) fn verify_non_root(pod: &Pod, container: &Container, image: &Image) -> Result<(), String> {
    let own = container.security_context.as_ref().and_then(|s| s.run_as_non_root);
    let wanted = own.or_else(|| pod::spec(pod).security_context.as_ref()?.run_as_non_root).unwrap_or(false);
    if !wanted {
        return Ok(());
    }
    let who = || {
        let id = pod::PodId::of(pod);
        format!("(pod: \"{}_{}({})\", container: {})", id.name, id.namespace, id.uid, container.name)
    };
    match (run_as_user(pod, container), &image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {}", who())),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid.value == 0 => {
            Err(format!("container has runAsNonRoot and image will run as root {}", who()))
        }
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {}",
            image.username,
            who()
        )),
        // An image that names no user runs as root.
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {}", who())),
    }
}

/// Seccomp of a container, or of the sandbox with `None`. What names no profile gets the runtime's default.
pub(crate) fn seccomp(
    pod: &Pod,
    container: Option<&Container>,
    privileged: bool,
    settings: &Settings,
) -> SecurityProfile {
    let own = container.and_then(|c| c.security_context.as_ref()).and_then(|s| s.seccomp_profile.as_ref());
    let of_pod = || pod::spec(pod).security_context.as_ref()?.seccomp_profile.as_ref();
    match own.or_else(of_pod) {
        // Privileged containers run without seccomp, whatever is asked for.
        _ if privileged => profile(ProfileType::Unconfined, String::new()),
        None => profile(ProfileType::RuntimeDefault, String::new()),
        Some(SeccompProfile { type_, localhost_profile }) => match type_.as_str() {
            "Unconfined" => profile(ProfileType::Unconfined, String::new()),
            "Localhost" => {
                let file = settings.seccomp_dir.join(localhost_profile.as_deref().unwrap_or_default());
                profile(ProfileType::Localhost, file.display().to_string())
            }
            _ => profile(ProfileType::RuntimeDefault, String::new()),
        },
    }
}

fn apparmor(pod: &Pod, container: &Container) -> Option<SecurityProfile> {
    let own = container.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let AppArmorProfile { type_, localhost_profile } =
        own.or_else(|| pod::spec(pod).security_context.as_ref()?.app_armor_profile.as_ref())?;
    Some(match type_.as_str() {
        "Unconfined" => profile(ProfileType::Unconfined, String::new()),
        "Localhost" => profile(ProfileType::Localhost, localhost_profile.clone().unwrap_or_default()),
        _ => profile(ProfileType::RuntimeDefault, String::new()),
    })
}

/// Whether the pod asks for a profile of AppArmor's: without it one would run less confined than it says.
pub(crate) fn wants_apparmor(pod: &Pod) -> bool {
    pod::all_containers(pod)
        .filter_map(|container| apparmor(pod, container))
        .any(|profile| profile.profile_type() != ProfileType::Unconfined)
}

fn profile(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref }
}

/// The user and its name, where one has to be said: a group is refused without. It is the image's then, or root.
fn user(pod: &Pod, container: &Container, image: &Image, group: Option<i64>) -> (Option<i64>, String) {
    match (run_as_user(pod, container), group, &image.uid) {
        (Some(user), _, _) => (Some(user), String::new()),
        (None, None, _) => (None, String::new()),
        (None, Some(_), Some(uid)) => (Some(uid.value), String::new()),
        (None, Some(_), None) if !image.username.is_empty() => (None, image.username.clone()),
        (None, Some(_), None) => (Some(0), String::new()),
    }
}

/// Builds a container's security context.
/// `target` is the container whose processes it sees, where they do not see each other's anyway.
pub(crate) fn context(
    pod: &Pod,
    container: &Container,
    image: &Image,
    target: Option<String>,
    settings: &Settings,
) -> LinuxContainerSecurityContext {
    let mut namespaces = sandbox::namespaces(pod);
    if let Some(target) = target.filter(|_| namespaces.pid() == NamespaceMode::Container) {
        namespaces.set_pid(NamespaceMode::Target);
        namespaces.target_id = target;
    }
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let of_pod = pod::spec(pod).security_context.as_ref();
    let privileged = privileged(container);
    let group = own.run_as_group.or_else(|| of_pod?.run_as_group);
    let (user, username) = user(pod, container, image, group);
    let strict = of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| if unmasked { vec![] } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| Capability {
            add_capabilities: pod::list(&c.add).to_vec(),
            drop_capabilities: pod::list(&c.drop).to_vec(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        run_as_user: user.map(int64),
        run_as_username: username,
        run_as_group: group.map(int64),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: if strict {
            SupplementalGroupsPolicy::Strict.into()
        } else {
            SupplementalGroupsPolicy::Merge.into()
        },
        // Privileged containers and those with CAP_SYS_ADMIN have it set to allow by validation.
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&[&MASKED[..], &MASKED_MORE[..]].concat()),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(pod, Some(container), privileged, settings)),
        apparmor: apparmor(pod, container),
        ..LinuxContainerSecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec};

    use super::*;

    #[test]
    fn non_root() {
        let image =
            |uid: Option<i64>, user: &str| Image { uid: uid.map(int64), username: user.into(), ..Image::default() };
        for (spec_user, image, expected) in [
            (Some(0), image(Some(5), ""), Some("breaks non-root policy")),
            (Some(5), image(Some(0), ""), None),
            (None, image(Some(0), ""), Some("container has runAsNonRoot and image will run as root")),
            (None, image(None, ""), Some("container has runAsNonRoot and image will run as root")),
            (None, image(Some(5), ""), None),
            (None, image(None, "www"), Some("non-numeric user (www)")),
        ] {
            let security = PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: spec_user,
                ..PodSecurityContext::default()
            };
            let spec = PodSpec { security_context: Some(security), ..PodSpec::default() };
            let pod = Pod { spec: Some(spec), ..Pod::default() };
            let got = verify_non_root(&pod, &Container::default(), &image).err();
            match expected {
                None => assert_eq!(got, None),
                Some(text) => assert!(got.as_ref().is_some_and(|m| m.contains(text)), "{got:?} lacks {text}"),
            }
        }
    }

    #[test]
    fn a_group_never_stands_alone() {
        let image =
            |uid: Option<i64>, user: &str| Image { uid: uid.map(int64), username: user.into(), ..Image::default() };
        for (spec_user, group, image, expected) in [
            (Some(7), Some(5), image(Some(9), ""), (Some(7), "")),
            (None, None, image(Some(9), ""), (None, "")),
            (None, Some(5), image(Some(9), ""), (Some(9), "")),
            (None, Some(5), image(None, "www"), (None, "www")),
            (None, Some(5), image(None, ""), (Some(0), "")),
        ] {
            let security =
                SecurityContext { run_as_user: spec_user, run_as_group: group, ..SecurityContext::default() };
            let container = Container { security_context: Some(security), ..Container::default() };
            let got = context(&Pod::default(), &container, &image, None, &Settings::for_tests());
            let user = got.run_as_user.map(|user| user.value);
            assert_eq!((user, got.run_as_username.as_str()), expected, "{spec_user:?} {group:?} {image:?}");
            assert_eq!(got.run_as_group.map(|group| group.value), group);
        }
    }

    #[test]
    fn default_profile_is_the_runtimes_and_privileged_has_none() {
        let settings = Settings::for_tests();
        let pod = Pod::default();
        let of = |privileged: bool| {
            let security = SecurityContext { privileged: Some(privileged), ..SecurityContext::default() };
            let container = Container { security_context: Some(security), ..Container::default() };
            context(&pod, &container, &Image::default(), None, &settings)
        };
        assert_eq!(of(false).seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
        assert!(!of(false).masked_paths.is_empty());
        assert_eq!(of(true).seccomp.unwrap().profile_type(), ProfileType::Unconfined);
        assert!(of(true).masked_paths.is_empty());
    }
}
