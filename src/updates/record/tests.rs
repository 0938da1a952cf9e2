use proptest::prelude::*;

use super::*;
use crate::types::Digest;

fn hash(byte: u8) -> InfoHash {
    InfoHash(Digest::from([byte; 32]))
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn record(seq: u64) -> UpdateRecord {
    UpdateRecord::sign(&key(), hash(0x11), hash(0x22), seq, 1_800_000_000).unwrap()
}

fn refused(parts: &RecordParts) -> RecordError {
    UpdateRecord::verify(parts, record(7).original()).unwrap_err()
}

/// The vector of `schema/update.md`, computed with PyNaCl.
#[test]
fn another_implementation_makes_the_same_record() {
    let record = record(7);
    assert_eq!(
        hex::encode(record.original().0),
        "c9a9e697ce9301b2d1e70f550cecffc0244becf3742bd2223beac325eff0b1098c7e32b48b41eb36d723662478a73341001744525c699f\
         ddbb39b18370187a04"
    );
    assert_eq!(
        hex::encode(record.parts().signature),
        "facef71dc7f4808b24e1d0008194457772c7311435c3d7f3003041d076e0bc92b854af0ec031b876fb8965fcb0d1b9783947dedbce6265\
         bef977371619907701"
    );
    assert_eq!(hex::encode(record.salt()), "478c412c6c1bdfffed370e6e78a4e2fefaa141c1");
    assert_eq!(hex::encode(record.target()), "b7913e99ab18e6a73b8d0954695270d947c1fff1");
    assert_eq!(
        hex::encode(UpdateRecord::kad_key(record.original())),
        "2314b168100a7f423cf6d1d1947e0f1ffa0669b6bf78128ce4498a25eab75b6e"
    );
    assert_eq!(
        hex::encode(Sha256::digest(record.value())),
        "3bb7df90c8518749bd2796b2eeebb7bafc269055f800150694da0a0e1325f3c9"
    );
}

/// The second test vector of BEP 44: a mutable item with a salt.
#[test]
fn bep_44_signs_the_same_bytes() {
    let value = b"Hello World!";
    let key: [u8; 32] =
        hex::decode("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548").unwrap().try_into().unwrap();
    let signature: [u8; 64] = hex::decode(
        "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f\
         18f14951a87d9a08",
    )
    .unwrap()
    .try_into()
    .unwrap();
    let buffer = signed_buffer(b"foobar", 1, value);
    assert_eq!(buffer, b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
    assert!(is_signature(&PublicKey(key), &buffer, &signature));
    assert_eq!(hex::encode(target(&key, b"foobar")), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
}

#[test]
fn a_replay_with_another_number_is_refused() {
    let mut parts = record(7).parts();
    parts.seq = 8;
    assert_eq!(refused(&parts), RecordError::Disagrees);
    let text = String::from_utf8_lossy(&parts.value).into_owned();
    assert!(text.contains("1:qi7e"));
    let at = parts.value.windows(6).position(|window| window == b"1:qi7e").unwrap();
    parts.value[at + 4] = b'8';
    assert_eq!(refused(&parts), RecordError::Signature);
}

#[test]
fn records_of_other_datasets_and_other_keys_are_refused() {
    let sibling = UpdateRecord::sign(&key(), hash(0x33), hash(0x22), 9, 0).unwrap();
    assert_eq!(refused(&sibling.parts()), RecordError::OtherDataset);
    // Somebody else signs under the name of this dataset.
    let mut forged = UpdateRecord::sign(&SecretKey::from_seed(&[2; 32]), hash(0x11), hash(0x44), 9, 0).unwrap();
    forged.original = *record(7).original();
    let other = SecretKey::from_seed(&[2; 32]);
    forged.signature = other.sign_bytes(&signed_buffer(&forged.salt(), 9, &forged.value()));
    assert_eq!(refused(&forged.parts()), RecordError::Signature);
    // A record for an InfoHash that the key never signed.
    let mut claimed = record(7);
    claimed.hash = hash(0x55);
    claimed.signature = key().sign_bytes(&signed_buffer(&claimed.salt(), 7, &claimed.value()));
    assert_eq!(refused(&claimed.parts()), RecordError::Signature);
}

#[test]
fn a_weak_key_cannot_speak_for_everybody() {
    let mut forged = record(7);
    forged.key = PublicKey([0; 32]);
    forged.key.0[0] = 1;
    let mut parts = forged.parts();
    parts.signature = [0; 64];
    parts.signature[0] = 1;
    assert_eq!(refused(&parts), RecordError::Signature);
}

#[test]
fn other_spellings_are_refused() {
    let good = record(7).parts();
    let with = |value: Vec<u8>| refused(&RecordParts { value, ..good.clone() });
    let inside = &good.value[1..good.value.len() - 1];
    assert_eq!(with([b"d1:ai1e", inside, b"e"].concat()), RecordError::NotCanonical);
    assert_eq!(with([b"d", inside, b"1:zi1ee"].concat()), RecordError::NotCanonical);
    assert_eq!(with([&good.value[..], b"e"].concat()), RecordError::Form);
    assert_eq!(with(b"de".to_vec()), RecordError::Form);
    assert_eq!(with(vec![b'd'; 5000]), RecordError::TooLong(5000));
    for seq in [0, 1 << 63] {
        assert!(matches!(UpdateRecord::sign(&key(), hash(1), hash(2), seq, 0), Err(RecordError::Seq(_))));
    }
}

proptest! {
    #[test]
    fn records_round_trip_and_every_changed_byte_is_noticed(seq in 1_u64..1 << 63, at in any::<i64>(), nth in 0_usize..400) {
        let record = UpdateRecord::sign(&key(), hash(0x11), hash(0x22), seq, at).unwrap();
        let parts = record.parts();
        prop_assert!(parts.value.len() <= MAX_RECORD_VALUE_LEN);
        prop_assert_eq!(UpdateRecord::verify(&parts, record.original()), Ok(record.clone()));
        let mut changed = parts.clone();
        match changed.value.get_mut(nth) {
            Some(byte) => *byte ^= 1,
            None => changed.signature[nth % 64] ^= 1,
        }
        prop_assert!(UpdateRecord::verify(&changed, record.original()).is_err());
        prop_assert_eq!(UpdateRecord::verify_own(&parts), Ok(record));
        prop_assert!(UpdateRecord::verify_own(&changed).is_err());
    }

    #[test]
    fn nothing_that_comes_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..300)) {
        let parts = RecordParts { value, ..record(7).parts() };
        prop_assert!(UpdateRecord::verify(&parts, record(7).original()).is_err());
    }
}
