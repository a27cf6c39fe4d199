//! Random operations, compared with a `BTreeMap`; several threads at one map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use weft_map::{GLANCE, Glance, Host, Map, SHARDS, Value};
use weft_shm::{Arena, ShmError};

struct Thread;

#[derive(Debug)]
struct Ended(#[expect(dead_code, reason = "for the message of a panic")] ShmError);

impl From<ShmError> for Ended {
    fn from(error: ShmError) -> Self {
        Self(error)
    }
}

impl Host for Thread {
    type Interrupt = Ended;

    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> Result<(), Ended> {
        while !step() {}
        Ok(())
    }
}

/// How much of something a test does: less of it under Miri.
const fn sized(usual: u64, under_miri: u64) -> u64 {
    if cfg!(miri) { under_miri } else { usual }
}

/// xorshift64*, from a seed that is printed and can be given.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        // Under Miri there is no clock to take one from, and a run is to be the same again.
        let now = if cfg!(miri) { UNIX_EPOCH } else { SystemTime::now() };
        let new = now.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        let seed = std::env::var("WEFT_MAP_SEED").map_or(new, |seed| seed.parse().unwrap());
        println!("WEFT_MAP_SEED={seed}");
        Self(seed)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

fn entries(map: &Map) -> BTreeMap<(u8, Vec<u8>), (u8, Vec<u8>)> {
    let parts = (0..SHARDS).flat_map(|part| map.part(part, usize::MAX, &mut Thread).unwrap());
    parts.map(|entry| ((entry.kind, entry.key), (entry.value.kind, entry.value.bytes))).collect()
}

#[test]
fn it_does_what_a_map_does() {
    let mut dice = Dice::new();
    let arena = Arena::create().unwrap();
    let before = arena.blocks_in_use().unwrap();
    let map = Map::create(&arena).unwrap();
    let mut model = BTreeMap::new();
    let mut value = Value::default();
    for _ in 0..sized(60_000, 60) {
        let kind = dice.roll(2) as u8;
        let key = dice.roll(700).to_le_bytes()[..1 + dice.roll(8) as usize].to_vec();
        match dice.roll(10) {
            0..=4 => {
                let length = [1, 40, 41, 500, 9000][dice.roll(5) as usize];
                let (value_kind, bytes) = (dice.roll(9) as u8, vec![dice.roll(256) as u8; length]);
                map.set((kind, &key), (value_kind, &bytes), &mut Thread).unwrap();
                model.insert((kind, key), (value_kind, bytes));
            }
            5 | 6 => {
                let was = model.remove(&(kind, key.clone()));
                assert_eq!(map.remove((kind, &key), &mut value, &mut Thread).unwrap(), was.is_some());
                if let Some(was) = was {
                    assert_eq!((value.kind, &value.bytes), (was.0, &was.1));
                }
            }
            7 | 8 => {
                let is = model.get(&(kind, key.clone()));
                assert_eq!(map.get((kind, &key), &mut value, &mut Thread).unwrap(), is.is_some());
                if let Some(is) = is {
                    assert_eq!((value.kind, &value.bytes), (is.0, &is.1));
                }
            }
            _ if dice.roll(2000) == 0 => {
                map.clear(&mut Thread).unwrap();
                model.clear();
            }
            _ => assert_eq!(map.len(), model.len() as u64),
        }
    }
    assert_eq!(entries(&map), model);
    drop(map);
    assert_eq!(arena.blocks_in_use().unwrap(), before, "all of its memory goes with it");
}

#[test]
fn threads_lose_nothing() {
    const THREADS: u64 = 4;
    const TIMES: u64 = sized(20_000, 20);
    let map = Arc::new(Map::create(&Arena::create().unwrap()).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let map = Arc::clone(&map);
            scope.spawn(move || {
                for number in 0..TIMES {
                    let add = |before: Option<(u8, &[u8], u64)>| {
                        let before =
                            before.map_or(0, |(_, bytes, _)| u64::from_le_bytes(bytes.try_into().unwrap()));
                        Some((0, (before + 1).to_le_bytes().to_vec()))
                    };
                    map.change((0, b"sum"), add, &mut Thread).unwrap();
                    let key = [thread.to_le_bytes(), (number % 500).to_le_bytes()].concat();
                    map.set((1, &key), (0, &number.to_le_bytes()), &mut Thread).unwrap();
                }
            });
        }
    });
    let mut sum = Value::default();
    assert!(map.get((0, b"sum"), &mut sum, &mut Thread).unwrap());
    assert_eq!(sum.bytes, (THREADS * TIMES).to_le_bytes());
    assert_eq!(map.len(), THREADS * sized(500, 20) + 1);
}

#[test]
fn a_stamp_tells_one_value_from_another() {
    let map = Map::create(&Arena::create().unwrap()).unwrap();
    let (mut first, mut second) = (Value::default(), Value::default());
    map.set((0, b"key"), (0, b"a"), &mut Thread).unwrap();
    map.get((0, b"key"), &mut first, &mut Thread).unwrap();
    map.set((0, b"key"), (0, b"b"), &mut Thread).unwrap();
    map.set((0, b"key"), (0, b"a"), &mut Thread).unwrap();
    map.get((0, b"key"), &mut second, &mut Thread).unwrap();
    assert_eq!(first.bytes, second.bytes);
    assert_ne!(first.stamp, second.stamp);
}

/// The key of the entry with this number.
fn key(number: u64) -> Vec<u8> {
    number.to_le_bytes()[..1 + (number % 8) as usize].to_vec()
}

#[test]
fn a_glance_sees_what_is_there_or_nothing_at_all() {
    let map = Map::create(&Arena::create().unwrap()).unwrap();
    let glance = |kind, key: &[u8]| {
        // SAFETY: this thread is the only one.
        let glance = unsafe { map.glance((kind, key)) }.expect("nobody changes anything");
        match glance {
            Glance::Nothing => None,
            Glance::Value(kind, ..) => Some((kind, glance.bytes().1.to_vec())),
        }
    };
    assert_eq!(glance(0, b"key"), None);
    for length in 0..=GLANCE - 3 {
        map.set((1, b"key"), (length as u8, &vec![length as u8; length]), &mut Thread).unwrap();
        assert_eq!(glance(1, b"key"), Some((length as u8, vec![length as u8; length])));
        assert_eq!(glance(2, b"key"), None, "of another kind");
    }
    map.set((1, b"key"), (3, &[0; GLANCE - 2]), &mut Thread).unwrap();
    // SAFETY: as above.
    assert!(unsafe { map.glance((1, b"key")) }.is_none(), "too long for a glance");
    map.remove((1, b"key"), &mut Value::default(), &mut Thread).unwrap();
    assert_eq!(glance(1, b"key"), None);
    map.set((1, b"key"), (3, b"value"), &mut Thread).unwrap();
    map.clear(&mut Thread).unwrap();
    assert_eq!(glance(1, b"key"), None);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a glance may be at memory that has come to other use, and finds that out afterwards"
)]
fn a_glance_never_sees_the_middle_of_a_change() {
    const KEYS: u64 = 40;
    let arena = Arena::create().unwrap();
    let map = Map::create(&arena).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new();
            while !stop.load(Ordering::Relaxed) {
                let (key, byte) = (key(dice.roll(KEYS)), dice.roll(256) as u8);
                match dice.roll(20) {
                    0 => map.clear(&mut Thread).unwrap(),
                    1..5 => drop(map.remove((0, &key), &mut Value::default(), &mut Thread).unwrap()),
                    _ => {
                        let value = [&[key.len() as u8][..], &vec![byte; dice.roll(70) as usize]].concat();
                        map.set((0, &key), (byte, &value), &mut Thread).unwrap();
                    }
                }
            }
        });
        // As another process would have it.
        let other = Map::attach(&arena, map.handle()).unwrap();
        let mut dice = Dice::new();
        let (mut seen, mut looks) = (0, 0);
        while seen < sized(20_000, 20) && looks < 20_000_000 {
            looks += 1;
            let key = key(dice.roll(KEYS));
            // SAFETY: this thread is the only one with this handle.
            if let Some(glance @ Glance::Value(kind, ..)) = unsafe { other.glance((0, &key)) } {
                let (known, value) = glance.bytes();
                assert_eq!((known, usize::from(value[0])), (&key[..], key.len()));
                assert!(value[1..].iter().all(|byte| *byte == kind));
                seen += 1;
            } else if looks % 64 == 0 {
                // With the lock it finds out where the segment is now.
                other.get((0, &key), &mut Value::default(), &mut Thread).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen > 0);
    });
}
