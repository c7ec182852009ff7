-- End a reservation.  ARGV: call, '1' to give all of it back, '1' to refund what was reserved beyond the charge, number of
-- charges; for each the claim's key and the amount. Returns 1, or 0 if there is no such reservation.
local charges = {}
for at = 5, 3 + 2 * tonumber(ARGV[4]), 2 do charges[ARGV[at]] = tonumber(ARGV[at + 1]) end
return finish(ARGV[1], charges, ARGV[3] == '1', ARGV[2] == '1')
