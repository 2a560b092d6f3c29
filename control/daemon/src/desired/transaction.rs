//! One `Apply`: from the request to the state it would make.

use std::{collections::HashSet, fmt, sync::Arc};

use shunt_control_api::{FieldError, Key, Kind, Resource, v1};

use super::{Change, Claims, Rules, State};

/// A request whose fields are valid one by one.
#[derive(Debug, Default)]
pub struct Transaction {
    upserts: Vec<Upsert>,
    deletes: Vec<Key>,
    replace: bool,
    /// Refuse unless the state has this version.
    pub expected_version: Option<u64>,
}

#[derive(Debug)]
struct Upsert {
    key: Key,
    resource: Arc<Resource>,
    place: Place,
}

/// Where a resource stands in a request: `services[3]`.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    list: &'static str,
    at: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.list, self.at)
    }
}

/// How many resources a transaction touches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New ones.
    pub created: u32,
    /// Others with the same key took their place.
    pub updated: u32,
    /// As they were; and deletes of what did not exist.
    pub unchanged: u32,
    /// Gone.
    pub deleted: u32,
}

/// What a transaction would do to a state.
#[derive(Debug)]
pub struct Plan {
    /// The state after it.
    pub state: State,
    /// What its resources have taken.
    pub claims: Claims,
    /// The way there; `None` if there is nothing to do.
    pub change: Option<Change>,
    /// The same in numbers.
    pub counts: Counts,
}

impl TryFrom<v1::ApplyRequest> for Transaction {
    type Error = FieldError;

    fn try_from(request: v1::ApplyRequest) -> Result<Self, FieldError> {
        if request.replace && !request.deletes.is_empty() {
            let problem = "is not for a request that replaces everything; leave it empty, or unset replace";
            return Err(FieldError::new("deletes", problem));
        }
        let mut transaction = Transaction {
            replace: request.replace,
            expected_version: request.expected_version,
            ..Transaction::default()
        };
        let mut upsert = |list, at, resource: Result<Resource, FieldError>| {
            let place = Place { list, at };
            let resource = resource.map_err(|e| e.within(place))?;
            transaction.upserts.push(Upsert { key: resource.key(), resource: Arc::new(resource), place });
            Ok(())
        };
        for (i, vtep) in request.vteps.into_iter().enumerate() {
            upsert("vteps", i, vtep.try_into().map(Resource::Vtep))?;
        }
        for (i, port) in request.ports.into_iter().enumerate() {
            upsert("ports", i, port.try_into().map(Resource::Port))?;
        }
        for (i, route) in request.routes.into_iter().enumerate() {
            upsert("routes", i, route.try_into().map(Resource::Route))?;
        }
        for (i, service) in request.services.into_iter().enumerate() {
            upsert("services", i, service.try_into().map(Resource::Service))?;
        }
        for (i, slice) in request.endpoint_slices.into_iter().enumerate() {
            upsert("endpoint_slices", i, slice.try_into().map(Resource::EndpointSlice))?;
        }
        for (i, key) in request.deletes.into_iter().enumerate() {
            transaction.deletes.push(Key::try_from(key).map_err(|e| e.within(format_args!("deletes[{i}]")))?);
        }
        transaction.check_keys()?;
        Ok(transaction)
    }
}

/// The field that makes a resource's key.
fn key_field(resource: &Resource) -> &'static str {
    match resource {
        Resource::Vtep(_) => "node",
        Resource::Port(_) | Resource::Service(_) | Resource::EndpointSlice(_) => "name",
        Resource::Route(_) => "prefix",
    }
}

impl Transaction {
    /// Each resource at most once.
    fn check_keys(&self) -> Result<(), FieldError> {
        let mut seen = HashSet::with_capacity(self.upserts.len() + self.deletes.len());
        for Upsert { key, resource, place } in &self.upserts {
            if !seen.insert(key) {
                let problem = format!("{} is in this request already; name each resource once", key.name);
                return Err(FieldError::new(key_field(resource), problem).within(place));
            }
        }
        for (i, key) in self.deletes.iter().enumerate() {
            if !seen.insert(key) {
                let problem = format!("{key} is in this request already; name each resource once");
                return Err(FieldError::new(format!("deletes[{i}].name"), problem));
            }
        }
        Ok(())
    }

    /// What it would make of `current`, whose resources have taken `claims`. Costs in proportion to the request, not to
    /// the state, unless it replaces the state. An error names the field that breaks a rule.
    pub fn plan(&self, current: &State, claims: &Claims, rules: &Rules) -> Result<Plan, FieldError> {
        let (mut state, mut claims) = (current.clone(), claims.clone());
        let mut change = Change { version: current.version + 1, ..Change::default() };
        let mut counts = Counts::default();
        let others = if self.replace { self.unnamed(current) } else { Vec::new() };
        for key in self.deletes.iter().chain(others) {
            match state.resources.remove(key) {
                Some(resource) => {
                    claims.release(&resource);
                    change.deletes.push(key.clone());
                }
                None => counts.unchanged += 1,
            }
        }
        let mut fresh = Vec::new();
        for upsert in &self.upserts {
            match state.resources.get(&upsert.key) {
                Some(present) if *present == upsert.resource => {
                    counts.unchanged += 1;
                    continue;
                }
                Some(present) => {
                    claims.release(present);
                    counts.updated += 1;
                }
                None => counts.created += 1,
            }
            fresh.push(upsert);
        }
        // All have let go before the first one takes: addresses may move within a request.
        for Upsert { key, resource, place } in fresh {
            rules.admit(resource, &mut claims).map_err(|e| e.within(place))?;
            state.resources.insert(key.clone(), resource.clone());
            change.upserts.push(resource.clone());
        }
        counts.deleted = change.deletes.len().try_into().unwrap_or(u32::MAX);
        if change.upserts.is_empty() && change.deletes.is_empty() {
            return Ok(Plan { state, claims, change: None, counts });
        }
        state.version = change.version;
        Ok(Plan { state, claims, change: Some(change), counts })
    }

    /// The keys of `current` that it does not name.
    fn unnamed<'a>(&self, current: &'a State) -> Vec<&'a Key> {
        let named: HashSet<&Key> = self.upserts.iter().map(|upsert| &upsert.key).collect();
        current.resources.keys().filter(|key| !named.contains(key)).collect()
    }

    /// The services it upserts, each with its `namespace/name`.
    pub fn services(&self) -> impl Iterator<Item = (Place, &str)> {
        self.upserts
            .iter()
            .filter(|upsert| upsert.key.kind == Kind::Service)
            .map(|upsert| (upsert.place, &*upsert.key.name))
    }

    /// The ports it upserts, each with its interface.
    pub fn ports(&self) -> impl Iterator<Item = (Place, &str)> {
        self.upserts.iter().filter_map(|upsert| match &*upsert.resource {
            Resource::Port(port) => Some((upsert.place, port.interface.as_str())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::rules::tests::rules, *};

    fn vtep(n: u8) -> v1::Vtep {
        v1::Vtep {
            node: format!("node-{n}"),
            address: format!("192.168.50.{n}"),
            mac: format!("0a:58:00:00:00:{n:02x}"),
            pod_cidr: format!("10.244.{n}.0/24"),
            ..Default::default()
        }
    }

    fn request(vteps: Vec<v1::Vtep>) -> v1::ApplyRequest {
        v1::ApplyRequest { vteps, ..Default::default() }
    }

    fn node_key(n: u8) -> v1::Key {
        v1::Key { kind: v1::Kind::Vtep.into(), name: format!("node-{n}") }
    }

    fn plan(state: &State, request: v1::ApplyRequest) -> Plan {
        let claims = state.claims(&rules()).unwrap();
        Transaction::try_from(request).unwrap().plan(state, &claims, &rules()).unwrap()
    }

    #[test]
    fn upserts_are_counted_and_move_the_version_once() {
        let one = plan(&State::default(), request(vec![vtep(2), vtep(3)]));
        assert_eq!(one.counts, Counts { created: 2, ..Default::default() });
        assert_eq!((one.state.version, one.change.unwrap().upserts.len()), (1, 2));

        let changed = v1::Vtep { mac: "0a:58:00:00:00:99".into(), ..vtep(3) };
        let two = plan(&one.state, request(vec![vtep(2), changed, vtep(4)]));
        assert_eq!(two.counts, Counts { created: 1, updated: 1, unchanged: 1, deleted: 0 });
        assert_eq!((two.state.version, two.change.unwrap().upserts.len()), (2, 2));
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let one = plan(&State::default(), request(vec![vtep(2)]));
        let again = plan(&one.state, request(vec![vtep(2)]));
        assert_eq!((again.state.version, again.change), (1, None));
        assert_eq!(again.counts, Counts { unchanged: 1, ..Default::default() });
    }

    #[test]
    fn deletes_take_what_is_there() {
        let one = plan(&State::default(), request(vec![vtep(2), vtep(3)]));
        let two = plan(&one.state, v1::ApplyRequest { deletes: vec![node_key(2), node_key(9)], ..Default::default() });
        assert_eq!(two.counts, Counts { deleted: 1, unchanged: 1, ..Default::default() });
        assert_eq!(two.state.vteps().map(|v| v.node.as_str()).collect::<Vec<_>>(), ["node-3"]);
    }

    #[test]
    fn replace_makes_the_request_the_whole_state() {
        let one = plan(&State::default(), request(vec![vtep(2), vtep(3)]));
        let two = plan(&one.state, v1::ApplyRequest { replace: true, ..request(vec![vtep(3), vtep(4)]) });
        assert_eq!(two.counts, Counts { created: 1, unchanged: 1, deleted: 1, updated: 0 });
        assert_eq!(two.state.vteps().count(), 2);
        assert_eq!(two.change.unwrap().deletes, [Key::try_from(node_key(2)).unwrap()]);
    }

    #[test]
    fn an_address_may_move_within_one_request() {
        let one = plan(&State::default(), request(vec![vtep(2), vtep(3)]));
        let (mut a, mut b) = (vtep(2), vtep(3));
        (a.address, b.address) = (b.address, a.address);
        assert_eq!(plan(&one.state, request(vec![a, b])).counts.updated, 2);
    }

    #[test]
    fn requests_that_contradict_themselves_are_refused() {
        let refused = |request: v1::ApplyRequest| Transaction::try_from(request).unwrap_err().to_string();
        let twice = refused(request(vec![vtep(2), vtep(2)]));
        assert_eq!(twice, "vteps[1].node: node-2 is in this request already; name each resource once");
        let both = refused(v1::ApplyRequest { deletes: vec![node_key(2)], ..request(vec![vtep(2)]) });
        assert!(both.starts_with("deletes[0].name: vtep node-2 is in this request already"), "{both}");
        let replace = refused(v1::ApplyRequest { deletes: vec![node_key(2)], replace: true, ..Default::default() });
        assert!(replace.starts_with("deletes: "), "{replace}");
        let field = refused(request(vec![vtep(2), v1::Vtep { mac: "x".into(), ..vtep(3) }]));
        assert!(field.starts_with("vteps[1].mac: "), "{field}");
    }
}
