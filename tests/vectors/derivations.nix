# Derivations of every shape that flk makes or reads: plain, several outputs, fixed outputs, inputs of all kinds, escapes.
let
  derive = attributes: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // attributes);
  flat = command: derive {
    name = "fetched-1.0";
    args = [ "-c" command ];
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
  tree = derive {
    name = "tree";
    outputHashMode = "recursive";
    outputHash = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=";
  };
  source = builtins.toFile "source" "hello";
  plain = derive { name = "plain"; args = [ "-c" "echo hi > $out" ]; };
  multi = derive {
    name = "multi-2.1";
    outputs = [ "out" "dev" "zdoc" ];
    args = [ "-c" "exit 1" ];
    inherit source plain;
  };
  escapes = derive {
    name = "escapes";
    args = [ "a\"b" "c\\d" "e\nf" "g\rh" "i\tj" "\${k}" "ünïcödé 𝄞" "" ];
    text = "\"\\\n\r\t";
  };
  # `one` and `two` fetch the same file: in the hash of what needs both they are a single input.
  both = derive {
    name = "both";
    one = flat "echo one";
    two = flat "echo two";
    dev = multi.dev;
    zdoc = multi.zdoc;
    inherit tree plain source;
  };
  # Directly and through `both`, and all outputs at once.
  deep = derive { name = "deep"; inherit both multi escapes; all = map (output: multi.${output}) [ "out" "dev" "zdoc" ]; };
in
deep
