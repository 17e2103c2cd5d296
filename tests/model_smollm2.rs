use candle_core::{DType, Device};
use reflux::model::ops::{Packed, Segment};
use reflux::model::{Message, Model};
#[test]
fn loads() {
    let Some(path) = std::env::var_os("REFLUX_SMOLLM2") else {
        eprintln!("not run: REFLUX_SMOLLM2 is not set");
        return;
    };
    let t = std::time::Instant::now();
    let m = Model::load(path.as_ref(), &Device::Cpu, DType::F32, false).unwrap();
    println!("{:?} {} {:?}", t.elapsed(), m.hash, m.tokenizer.eos_ids());
    let ids =
        m.tokenizer.encode_chat(&[Message::new("user", "What is the capital of France?<|im_end|>")], true).unwrap();
    println!("{ids:?} {}", m.tokenizer.decode(&ids));
    let ids = m.tokenizer.encode_chat(&[Message::new("user", "What is the capital of France?")], true).unwrap();
    let n = ids.len();
    let mut a = Packed::new(vec![Segment { prefix: 0..0, rows: 0..n }]);
    let pos: Vec<u32> = (0..n as u32).collect();
    let h = m.llama.forward(&ids, &pos, &mut a).unwrap();
    let l = m.llama.logits(&h.narrow(0, n - 1, 1).unwrap()).unwrap();
    let best = l.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    println!("{:?} {}", best, m.tokenizer.decode(&best));
    let dir = tempfile::tempdir().unwrap();
    let t = std::time::Instant::now();
    let h = m.save(dir.path()).unwrap();
    println!("save {:?}", t.elapsed());
    let m2 = Model::load(dir.path(), &Device::Cpu, DType::F32, false).unwrap();
    assert_eq!(m2.hash, h);
    assert_eq!(m2.hash, m.hash);
}
