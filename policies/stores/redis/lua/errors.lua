-- The text of errors, and those that are of the server and not of an operation.

function script.error_of(problem)
  local text = string.gsub(type(problem) == 'table' and problem.err or tostring(problem), '[^\32-\126]', '?')
  return string.match(text, '%-(%u%u+ .*)$') or text  -- Redis 6 and older put the place in the script before it
end

-- Whether an error means that no operation can write now: then it is the error of the whole batch.
function script.is_of_server(text)
  return string.match(text, '^READONLY ') or string.match(text, '^NOREPLICAS ') or string.match(text, '^MISCONF ')
end
