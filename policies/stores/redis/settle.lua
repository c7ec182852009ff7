-- End a hold.  ARGV: call, '1' to give all of it back, '1' to refund what was held too much, number of charges; for each
-- the claim's key and the amount.  Returns 1, or 0 where there is no such hold.
local charges = {}
for at = 5, 3 + 2 * tonumber(ARGV[4]), 2 do charges[ARGV[at]] = tonumber(ARGV[at + 1]) end
return finish(ARGV[1], charges, ARGV[3] == '1', ARGV[2] == '1')
