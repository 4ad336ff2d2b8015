"""Lists words that generated texts are made of: one token each for the tokenizers that count.

With a space in front, each noun is one token of tiny-llada's tokenizer, of Qwen's and of GPT-4's,
so that a text has about as many tokens by each, and tiny models can copy them.
"""

from __future__ import annotations

_NOUNS = """
bakery bank bar barn barrel basket beach bottle bridge bucket budget button camp canal candle
cap captain car castle cave cell cellar chair chapel clerk clock coin college compass cook
cottage court curtain dancer doctor dream driver drum editor engine factory farm farmer fence
ferry field film flag forest gallery garden glove guard hall hammer hand harbour helmet hotel
hunter island jar journey judge kettle kitchen kite knife ladder lamp lantern law lawyer
ledger letter library map market mayor meeting mill mine mirror mist museum music nurse office
order painter palace paper parcel park pier pillow pilot plan plaza porter poster pot printer
prison program project pump quarry quilt radio ranch ranger report ribbon ring road rope row
rule saddle sailor scholar school senator shore shovel sign signal singer smith soldier spoon
spring stable stadium station statue stove student studio suburb summer surgeon survey table
tailor tavern teacher temple tenant tent terrace test theatre thread ticket tower tractor
trader tray treaty trial trumpet tunnel valley vase veteran village vine violin visitor wagon
waiter wall wallet war wedding wheel whistle widow window winter writer yard year
"""
NOUNS = tuple(_NOUNS.split())
