use super::*;

const QUOTA: grants::KeyValue = grants::KeyValue {
    max_bytes: 100,
    max_keys: 3,
    max_value_bytes: 50,
};

fn act<T>(
    store: &Store,
    tenant: &str,
    work: impl FnOnce(&Space<'_>) -> Result<T, Refused>,
) -> Result<T, Refused> {
    store.0.act(tenant, QUOTA, work)
}

#[test]
fn tenants_are_apart() {
    let store = Store::default();
    act(&store, "a", |space| space.set("k", b"1")).expect("set");
    assert_eq!(act(&store, "b", |space| space.get("k")), Ok(None));
    act(&store, "b", |space| space.delete("k")).expect("nothing to do");
    assert_eq!(
        act(&store, "a", |space| space.get("k")),
        Ok(Some(b"1".to_vec()))
    );
    let page = act(&store, "b", |space| space.keys(None)).expect("a page");
    assert_eq!((page.keys.len(), page.next), (0, None));
}

#[test]
fn quotas_hold_and_what_is_deleted_is_free_again() {
    let store = Store::default();
    let set =
        |key: &str, bytes: usize| act(&store, "a", |space| space.set(key, &vec![b'x'; bytes]));
    assert!(set("one", 51).is_err(), "a value too long");
    assert!(set(&"k".repeat(1025), 0).is_err(), "a key too long");
    set("one", 47).expect("50 bytes");
    set("two", 47).expect("100 bytes");
    assert!(set("k", 0).is_err(), "101 bytes");
    set("one", 10).expect("fewer");
    set("k", 1).expect("the third key");
    assert!(set("l", 1).is_err(), "a fourth key");
    act(&store, "a", |space| space.delete("two")).expect("deleted");
    set("l", 40).expect("room again");
    let kept = act(&store, "a", |space| space.keys(None)).expect("a page");
    assert_eq!(kept.keys, ["k", "l", "one"]);
}

#[test]
fn a_batch_is_done_or_not() {
    let store = Store::default();
    let pairs: Vec<_> = ["a", "b", "c", "d"]
        .map(|key| (key.to_owned(), vec![1]))
        .into();
    assert!(act(&store, "t", |space| space.set_many(&pairs)).is_err());
    assert_eq!(act(&store, "t", |space| space.exists("a")), Ok(false));
    act(&store, "t", |space| space.set_many(&pairs[..3])).expect("set");
    let keys = ["a".to_owned(), "z".to_owned()];
    let found = act(&store, "t", |space| space.get_many(&keys)).expect("found");
    assert_eq!(found, [Some(("a".to_owned(), vec![1])), None]);
}

#[test]
fn numbers_are_added_to() {
    let store = Store::default();
    let add = |key: &'static str, delta| act(&store, "t", move |space| space.increment(key, delta));
    assert_eq!((add("n", 5), add("n", 7)), (Ok(5), Ok(12)));
    act(&store, "t", |space| space.set("x", b"word")).expect("set");
    assert!(add("x", 1).is_err());
    assert!(add("n", u64::MAX).is_err());
}

#[test]
fn a_file_is_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keyvalue.db");
    let first = Store::new(Some(file.clone()));
    act(&first, "t", |space| space.set("k", b"v")).expect("set");
    // Beside the first, as another process of the machine.
    let second = Store::new(Some(file));
    assert_eq!(
        act(&second, "t", |space| space.get("k")),
        Ok(Some(b"v".to_vec()))
    );
}
